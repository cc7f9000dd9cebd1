import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import type { TestCase } from "vitest/node";

const root = fileURLToPath(new URL(".", import.meta.url));

/** Tests import `src/x.ts` for types and navigation, but run what ships: `dist/x.js`. */
const runWhatShips = {
  name: "run-what-ships",
  enforce: "pre" as const,
  resolveId(source: string, importer: string | undefined) {
    if (importer === undefined || !source.startsWith(".")) return undefined;
    const path = fileURLToPath(new URL(source, `file://${importer}`));
    const match = /^(.*\/packages\/[^/]+)\/src\/(.*)\.ts$/.exec(path);
    if (match === null || !path.startsWith(root)) return undefined;
    return `${match[1]}/dist/${match[2]}.js`;
  },
};

/** Says why a test failed that passed when it was tried again: vitest's own reporters do not. */
const tellFirstTries = {
  onTestCaseResult(test: TestCase): void {
    if (test.diagnostic()?.flaky !== true) return;
    for (const { stack, message, diff = "" } of test.result().errors ?? []) {
      console.error(`failed at first: ${test.module.relativeModuleId} > ${test.fullName}`);
      console.error(`${stack ?? message}\n${diff}`);
    }
  },
};

/** Tests that take virtual machines run on their own: npm run test:machines. */
const machines = "test/machines/**/*.test.ts";
const others = ["packages/*/test/**/*.test.ts", "test/**/*.test.ts", "bench/*.test.ts"];
const isMachines = process.env.CASTORE_TESTS === "machines";

export default defineConfig({
  plugins: [runWhatShips],
  test: {
    include: isMachines ? [machines] : others,
    exclude: ["**/node_modules/**", ...(isMachines ? [] : [machines])],
    server: { deps: { external: [/\/packages\/[^/]+\/dist\//] } },
    globalSetup: ["packages/castore/kernel/build.js"],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
    // A shared machine may stall for seconds: what fails once is shown, what fails twice is wrong.
    // A machine that does not boot is never tried again.
    retry: process.env.CI === undefined || isMachines ? 0 : 1,
    reporters: ["default", "json", tellFirstTries],
    outputFile: { json: ".cache/test-report.json" },
  },
});
