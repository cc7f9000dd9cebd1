import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const unwatched = new Set(["node_modules", "dist", ".git", ".cache", "results", "vectors"]);

/** Paths relative to the root. Biome checks the rest of the style: see biome.json. */
function listFiles(directory = ""): string[] {
  return readdirSync(join(root, directory), { withFileTypes: true }).flatMap((entry) => {
    if (unwatched.has(entry.name)) return [];
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return listFiles(path);
    return entry.isFile() ? [path] : [];
  });
}

const files = listFiles();
const isCode = (path: string) => /\.(ts|js|mjs)$/.test(path) && !path.endsWith(".gen.ts");
const code = files.filter(isCode).map((path) => ({ path, text: read(path) }));
const sources = code.filter(({ path }) => /^packages\/[^/]+\/src\//.test(path));

function read(path: string): string {
  return readFileSync(join(root, path), "utf8");
}

interface Import {
  readonly path: string;
  readonly from: string;
  readonly typeOnly: boolean;
}

function listImports({ path, text }: { path: string; text: string }): Import[] {
  const statement = /^(?:import|export)\b([^"';]*?)\bfrom\s*"([^"]+)"|^import()\s*"([^"]+)"/gm;
  const dynamic = /\bimport\(\s*"([^"]+)"\s*\)/g;
  return [
    ...[...text.matchAll(statement)].map((match) => ({
      path,
      from: match[2] ?? match[4] ?? "",
      typeOnly: /^\s*type\b/.test(match[1] ?? ""),
    })),
    ...[...text.matchAll(dynamic)].map((match) => ({
      path,
      from: match[1] ?? "",
      typeOnly: false,
    })),
  ];
}

const imports = code.flatMap(listImports);
const showImport = ({ path, from }: Import) => `${path} imports ${from}`;

/** Every line of `files` that matches, as `path:line: text`. */
function grep(where: readonly { path: string; text: string }[], pattern: RegExp): string[] {
  return where.flatMap(({ path, text }) =>
    text
      .split("\n")
      .map((line, index) => (pattern.test(line) ? `${path}:${index + 1}: ${line.trim()}` : ""))
      .filter((hit) => hit !== ""),
  );
}

describe("dependencies between packages", () => {
  const allowed = new Map([
    ["castore", []],
    ["nar-bridge", ["@castore/castore"]],
    ["fuse", ["@castore/castore"]],
    ["cli", ["@castore/castore", "@castore/fuse", "@castore/nar-bridge"]],
  ]);

  it("each package imports only the packages below it, by their public names", () => {
    const wrong = imports.filter(({ path, from }) => {
      const [, name] = /^packages\/([^/]+)\//.exec(path) ?? [];
      if (name === undefined || !from.startsWith("@castore/")) return false;
      const own = `@castore/${name}`;
      return !(allowed.get(name) ?? []).some((other) => other === from) && from !== own;
    });
    expect(wrong.map(showImport)).toEqual([]);
  });

  it("package.json declares what the rule allows", () => {
    for (const [name, others] of allowed) {
      const manifest = JSON.parse(read(`packages/${name}/package.json`));
      const declared = Object.keys(manifest.dependencies).filter((key) => key.startsWith("@cast"));
      expect(declared).toEqual(others);
    }
  });

  it("relative imports stay in their package, and tests across packages use public names", () => {
    const areaOf = (path: string) => /^(packages\/[^/]+|test|bench)\//.exec(path)?.[1] ?? "";
    const wrong = imports.filter(({ path, from }) => {
      if (!from.startsWith(".")) return /^@castore\/[^/]+\//.test(from) || from === "@castore/cli";
      const target = normalize(join(dirname(path), from));
      if (areaOf(target) === areaOf(path)) return false;
      return !(target.startsWith("test/support/") && !/\/src\//.test(path));
    });
    expect(wrong.map(showImport)).toEqual([]);
  });

  it.each(["castore", "nar-bridge"])(
    "rooms of %s import only rooms that stand above them in ARCHITECTURE.md",
    (name) => {
      const section = read("ARCHITECTURE.md").split(`## packages/${name}\n`)[1]?.split("\n## ")[0];
      const rooms = [...(section ?? "").matchAll(/^\| `([a-z-]+)\/`/gm)].map(([, room]) => room);
      const roomOf = (path: string) =>
        path.split(`packages/${name}/src/`)[1]?.match(/^(.+)\//)?.[1];
      const inside = sources.map(({ path }) => roomOf(path)).filter((room) => room !== undefined);
      expect(new Set(rooms)).toEqual(new Set(inside));
      const wrong = imports.filter(({ path, from }) => {
        const [own, other] = [roomOf(path), roomOf(normalize(join(dirname(path), from)))];
        if (own === undefined || other === undefined || !from.startsWith(".")) return false;
        return rooms.indexOf(other) > rooms.indexOf(own);
      });
      expect(wrong.map(showImport)).toEqual([]);
    },
  );

  it("sources import neither tests nor their support", () => {
    const wrong = imports.filter(
      ({ path, from }) => /\/src\//.test(path) && (/\/test\//.test(from) || from === "vitest"),
    );
    expect(wrong.map(showImport)).toEqual([]);
  });

  it.each(["@napi-rs/blake-hash", "cli-progress", "koffi", "lzma-native"])(
    "%s is imported in one module",
    (name) => {
      const users = imports.filter(({ path, from, typeOnly }) => {
        return from === name && !typeOnly && path.startsWith("packages/") && /\/src\//.test(path);
      });
      expect(users.map(showImport).slice(1)).toEqual([]);
    },
  );
});

describe("style that Biome does not check", () => {
  it("no line is longer than 100 characters", () => {
    // An import of one name cannot be broken; neither does Biome's formatter.
    const long = /^(?!import (type )?\{ \w+ \} from "[^"]+";$).{101}/;
    expect(grep(code, long)).toEqual([]);
  });

  it("no file or folder is a catch-all", () => {
    const bad = /(^|\/)(utils?|helpers?|common|misc|manager|types)(\.[a-z.]+)?(\/|$)/;
    expect(files.filter((path) => bad.test(path))).toEqual([]);
  });

  it("index.ts re-exports by name and holds no logic", () => {
    for (const { path, text } of sources.filter(({ path }) => path.endsWith("/index.ts"))) {
      const reExport = /export (type )?\{[^}*]*\} from "[^"]+";|\/\*[\s\S]*?\*\/|\/\/.*/g;
      const rest = text.replace(reExport, "").trim();
      expect(rest === "export {};" ? "" : rest, path).toBe("");
    }
  });

  it("no module has mutable state", () => {
    expect(grep(sources, /^(export )?(let|var) /)).toEqual([]);
  });

  it("no check is switched off that the house rules ask for", () => {
    const rules = "noExplicitAny|noNonNull|noFloating|noExcessive|noDefaultExport|noImportCycles";
    const off = new RegExp(`biome-ignore(-all|-start)? lint/\\w+/(${rules})|@ts-(ignore|nocheck)`);
    expect(grep(code, off)).toEqual([]);
  });

  it("nothing is left for later", () => {
    const words = /\b(T[O]DO|F[I]XME)\b/;
    expect(grep(code, words)).toEqual([]);
  });

  it("no test is skipped, focused or expected to fail", () => {
    const tests = code.filter(({ path }) => path.endsWith(".test.ts"));
    const marks = ["only", "skip", "skipIf", "runIf", "todo", "fails"].join("|");
    expect(grep(tests, new RegExp(`\\b(it|test|describe|context)\\.(${marks})\\b`))).toEqual([]);
  });
});

describe("documentation", () => {
  const pages = files.filter((path) => path.endsWith(".md"));
  const slug = (heading: string) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "")
      .trim()
      .replace(/\s/g, "-");
  const slugs = (path: string) =>
    [...read(path).matchAll(/^#+ (.+)$/gm)].map((match) => slug(match[1] ?? ""));

  it("every relative link leads to a file, every anchor to a heading", () => {
    const broken = pages.flatMap((page) =>
      [...read(page).matchAll(/\]\(([^)\s]+)\)/g)]
        .map((match) => match[1] ?? "")
        .filter((link) => !/^[a-z]+:/.test(link))
        .filter((link) => {
          const [path, anchor] = link.split("#");
          const target = path ? join(dirname(page), path) : page;
          if (!existsSync(join(root, target))) return true;
          return anchor !== undefined && target.endsWith(".md") && !slugs(target).includes(anchor);
        })
        .map((link) => `${page}: ${link}`),
    );
    expect(broken).toEqual([]);
  });
});

describe("package-lock.json", () => {
  it("holds every package that one of its packages may need, so that npm ci installs", () => {
    const { packages } = JSON.parse(read("package-lock.json"));
    const missing = Object.entries<Record<string, Record<string, string>>>(packages).flatMap(
      ([path, { dependencies, optionalDependencies }]) =>
        Object.keys({ ...dependencies, ...optionalDependencies })
          .filter((name) => !isInstalled(packages, path, name))
          .map((name) => `${name}, needed by ${path}`),
    );
    expect(missing).toEqual([]);
  });

  /** Looks where Node looks: in `path`/node_modules, then in each folder above. */
  function isInstalled(packages: object, path: string, name: string): boolean {
    for (let from = path; ; from = relative("", dirname(from))) {
      if (join(from, "node_modules", name) in packages) return true;
      if (from === "" || from === ".") return false;
    }
  }
});
