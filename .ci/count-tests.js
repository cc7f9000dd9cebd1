// usage: node count-tests.js REPORT…   sums vitest's JSON reports into "N passed, N failed".
// A skipped test counts as failed, and so does a file that could not be loaded. Exits 1 unless
// every report is there and nothing failed.
import { readFileSync } from "node:fs";

let passed = 0;
let failed = 0;
for (const path of process.argv.slice(2)) {
  const report = JSON.parse(readFileSync(path, "utf8"));
  const unloaded = report.testResults.filter(
    (file) => file.status === "failed" && file.assertionResults.length === 0,
  );
  const skipped = report.numPendingTests + report.numTodoTests;
  if (skipped > 0) console.log(`${path}: ${skipped} skipped`);
  if (unloaded.length > 0) console.log(`${path}: not loaded: ${unloaded.map((file) => file.name)}`);
  passed += report.numPassedTests;
  failed += report.numFailedTests + skipped + unloaded.length;
  if (!report.success && report.numFailedTests + unloaded.length === 0) failed += 1;
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
