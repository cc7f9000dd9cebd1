import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { repositoryRoot } from "./support/repository-root.ts";

const page = readFileSync(join(repositoryRoot(), "docs/format.md"), "utf8");
const tables = page.slice(page.indexOf("## Where snix's rules are tested"));
const rows = [...tables.matchAll(/^\|(.*)\|([^|]*\.ts) \|/gm)].map(
  ([, rules = "", files = ""]) => ({
    entries: [...rules.matchAll(/`(\w+)`/g)].map(([, entry = ""]) => entry),
    files: pathsOf(files),
  }),
);

/** Relative to packages/; a bare name lies beside the one before it. */
function pathsOf(list: string): string[] {
  let directory = "";
  return list.split(",").map((item) => {
    const name = item.trim();
    const path = name.includes("/") ? name : `${directory}/${name}`;
    directory = path.slice(0, path.lastIndexOf("/"));
    return join("packages", path);
  });
}

it("every test that docs/format.md names is there, and runs the entries that it is said to", () => {
  const wrong = rows.flatMap(({ entries, files }) =>
    files.flatMap((file) => {
      const path = join(repositoryRoot(), file);
      if (!existsSync(path)) return [`${file} is not there`];
      const text = readFileSync(path, "utf8");
      const absent = entries.filter((entry) => !new RegExp(`\\b${entry}\\b`).test(text));
      return absent.map((entry) => `${file} does not read ${entry}`);
    }),
  );
  expect(rows.length).toBeGreaterThan(20);
  expect(wrong).toEqual([]);
});

it("every entry of snix-castore.json has a test", () => {
  const vectors = readFileSync(join(repositoryRoot(), "test/vectors/snix-castore.json"), "utf8");
  const named = new Set(rows.flatMap(({ entries }) => entries));
  const prose = ["meta", "pathinfo_validation_order"];
  const untested = Object.keys(JSON.parse(vectors)).filter((entry) => !named.has(entry));
  expect(untested.sort()).toEqual(prose);
});

/** Titles of the tests in a file, with those that the suites which it uses have in theirs. */
function titlesOf(path: string): string[] {
  const text = readFileSync(join(repositoryRoot(), path), "utf8");
  const title = /\b(?:test|it)(?:\.each\([^"`]*\))?\(\s*"((?:[^"\\]|\\.)*)"/g;
  return [...text.matchAll(title)].map(([, name = ""]) => name);
}

it("every rule that docs/format.md lists has the test that it names", () => {
  const named = [...tables.matchAll(/^\| (.*) \| (.*\.ts) \| "(.*)" \|$/gm)];
  const wrong = named.filter(
    ([, , file = "", name = ""]) => !titlesOf(join("packages", file)).includes(name),
  );
  expect(named.length).toBeGreaterThan(35);
  expect(wrong.map(([row]) => row)).toEqual([]);
});
