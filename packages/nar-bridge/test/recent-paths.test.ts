import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { type StorePath, storePathHash, storePathOf } from "../src/nix/store-path.ts";
import { RecentPaths } from "../src/substitution/recent-paths.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { createUpstream } from "../src/upstream/upstream.ts";
import type { FoundNarInfo } from "../src/upstream/upstream-set.ts";
import { file } from "./nar-fixture.ts";
import { makePath } from "./path-fixture.ts";

const http = createHttpClient({ environment: {} });
const upstream = createUpstream({ http, url: "http://one.invalid" });
const other = createUpstream({ http, url: "http://other.invalid" });
const { narInfo } = await makePath("template", file("x"));

function path(name: string): StorePath {
  return storePathOf(createHash("sha1").update(name).digest(), name);
}

function found(name: string, references: readonly string[], from = upstream): FoundNarInfo {
  const storePath = path(name);
  return { upstream: from, narInfo: { ...narInfo, storePath, references: references.map(path) } };
}

const hash = (name: string) => storePathHash(path(name));
const names = (all: Iterable<FoundNarInfo>) => [...all].map((it) => it.narInfo.storePath.slice(33));

test("a closure is what refers or is referred to, over any steps, leaves first", () => {
  const recent = new RecentPaths();
  for (const it of [found("app", ["lib", "app"]), found("lib", ["libc"]), found("libc", [])]) {
    recent.note(it);
  }
  recent.note(found("tool", ["libc"]));
  recent.note(found("stranger", ["strange"]));
  recent.note(found("elsewhere", ["libc"], other));
  for (const name of ["app", "lib", "libc", "tool"]) {
    const closure = names(recent.closureOf(hash(name), upstream));
    expect([...closure].sort()).toEqual(["app", "lib", "libc", "tool"]);
    expect(closure.indexOf("libc")).toBeLessThan(closure.indexOf("lib"));
    expect(closure.indexOf("lib")).toBeLessThan(closure.indexOf("app"));
    expect(names(recent.connected(hash(name), upstream))[0]).toBe(name);
  }
  expect(names(recent.closureOf(hash("stranger"), upstream))).toEqual(["stranger"]);
  expect(names(recent.closureOf(hash("unknown"), upstream))).toEqual([]);
  expect(names(recent.of(other))).toEqual(["elsewhere"]);
});

test("a closure stands in the order in which Nix substitutes it, one path at a time", () => {
  const recent = new RecentPaths();
  recent.note(found("z-app", ["m-lib", "a-tool", "z-app"]));
  recent.note(found("m-lib", ["y-libc"]));
  recent.note(found("a-tool", ["y-libc", "x-data"]));
  for (const name of ["y-libc", "x-data", "n-alone"]) recent.note(found(name, []));
  recent.note(found("zz-profile", ["z-app", "n-alone"]));
  const closure = names(recent.closureOf(hash("x-data"), upstream));
  const inOrder = ["n-alone", "x-data", "y-libc", "a-tool", "m-lib", "z-app", "zz-profile"];
  expect(closure).toEqual(inOrder);
});

test("what is forgotten connects nothing any more, however much is noted", () => {
  const recent = new RecentPaths();
  for (let i = 0; i < 9_000; i++) recent.note(found(`path-${i}`, i === 0 ? [] : [`path-${i - 1}`]));
  expect(recent.get(hash("path-0"))).toBeUndefined();
  const closure = names(recent.closureOf(hash("path-8999"), upstream));
  expect([closure.length, closure[0], closure.at(-1)]).toEqual([8_192, "path-808", "path-8999"]);
});
