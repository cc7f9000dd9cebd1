import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";

const packages = fileURLToPath(new URL("../..", import.meta.url));

/** The modules that sources name by their place beside them: threads, mostly. */
function neighbours(): string[] {
  const sources = ["castore", "nar-bridge", "fuse", "cli"].flatMap((name) => {
    const directory = join(packages, name, "src");
    const files = readdirSync(directory, { recursive: true, encoding: "utf8" });
    return files.filter((file) => file.endsWith(".ts")).map((file) => join(directory, file));
  });
  return sources.flatMap((source) =>
    [...readFileSync(source, "utf8").matchAll(/new URL\("\.\/([^"]+\.js)", import\.meta\.url\)/g)]
      .map(([, name]) => name ?? "")
      .filter((name) => name !== ""),
  );
}

it("the command's bundle has every module that is loaded by its place", () => {
  const names = neighbours();
  expect(names).toContain("store-writer-thread.js");
  const missing = names.filter((name) => !existsSync(join(packages, "cli/dist/program", name)));
  expect(missing).toEqual([]);
});
