import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { directoryOf, EMPTY_DIGEST, openLocalStore, type PathComponent } from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type StoreHash, storePathHash } from "../src/nix/store-path.ts";
import { createLocalPathInfoService } from "../src/path-infos/local-path-info-service.ts";
import type { PathInfo } from "../src/path-infos/path-info.ts";
import { narInfoOf } from "../src/path-infos/path-info.ts";
import {
  createStoreRootNodes,
  type StoreRootNodesOptions,
} from "../src/substitution/store-root-nodes.ts";
import { samplePathInfo } from "./path-info-service-suite.ts";

let root = "";
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "store-root-nodes-"));
});
afterAll(() => rm(root, { recursive: true }));

const nameOf = ({ storePath }: PathInfo): PathComponent => storePath as string as PathComponent;
const node = { type: "directory", digest: EMPTY_DIGEST, size: 0 } as const;
const sample = (name: string, more: Partial<PathInfo> = {}): PathInfo =>
  samplePathInfo(name, { node, ...more });

async function openRoots(substituter?: StoreRootNodesOptions["substituter"]) {
  const store = await openLocalStore({ path: join(root, `${count++}`), create: true });
  await store.directories.putClosure([directoryOf([])]);
  const pathInfos = createLocalPathInfoService(store, {
    calculateNar: async () => ({ narHash: sample("1-a").narHash, narSize: sample("1-a").narSize }),
  });
  const roots = createStoreRootNodes({ store, pathInfos, substituter, pin: "mount-test" });
  return { store, pathInfos, roots, [Symbol.asyncDispose]: () => store.close() };
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

describe("createStoreRootNodes()", () => {
  it("gives and lists what the local store holds, by exact name", async () => {
    await using opened = await openRoots();
    const { roots, pathInfos } = opened;
    const a = sample("1-a");
    await pathInfos.put(a);
    expect(await roots.get(nameOf(a))).toEqual({ node, lazy: false, final: true });
    expect(await roots.get(`${nameOf(a)}b` as PathComponent)).toBeUndefined();
    expect(await all(roots.list())).toEqual([{ name: nameOf(a), node, lazy: false, final: true }]);
  });

  it("asks nobody for a name that is no store path, and fetches none that differs", async () => {
    const a = sample("1-a");
    const asked: StoreHash[] = [];
    const substituted: StoreHash[] = [];
    await using opened = await openRoots({
      async narInfo(storeHash) {
        asked.push(storeHash);
        return storeHash === storePathHash(a.storePath) ? narInfoOf(a, "") : undefined;
      },
      async substitute(storeHash) {
        substituted.push(storeHash);
        return { pathInfo: a, isPresent: false };
      },
    });
    const { roots } = opened;
    for (const name of [".git", "x", "1-a", `${nameOf(a)}/x`, nameOf(a).slice(0, 32)]) {
      expect(await roots.get(name as PathComponent)).toBeUndefined();
    }
    expect(asked).toEqual([]);
    expect(await roots.get(`${nameOf(a)}b` as PathComponent)).toBeUndefined();
    expect([asked.length, substituted.length]).toEqual([1, 0]);
    expect(await roots.get(nameOf(a))).toEqual({ node, lazy: false, final: true });
    expect(substituted.length).toBe(1);
  });

  it("gives the closure of names, and refuses where one is missing", async () => {
    await using opened = await openRoots();
    const { roots, pathInfos } = opened;
    const a = sample("1-a", { references: [] });
    const b = sample("2-b", { references: [a.storePath, sample("2-b").storePath] });
    await pathInfos.put(a);
    await pathInfos.put(b);
    expect(await roots.closure([nameOf(b)])).toEqual([nameOf(b), nameOf(a)]);
    const c = nameOf(sample("3-c"));
    await expect(roots.closure([c])).rejects.toMatchObject({ code: "INCOMPLETE" });
  });

  it("holds names by a pin until they are released", async () => {
    await using opened = await openRoots();
    const { roots, pathInfos, store } = opened;
    const [a, b] = [sample("1-a", { references: [] }), sample("2-b", { references: [] })];
    await pathInfos.put(a);
    await pathInfos.put(b);
    await Promise.all([roots.hold([nameOf(a)]), roots.hold([nameOf(a), nameOf(b)])]);
    const [pin, ...others] = await all(store.pins.list());
    expect(others).toEqual([]);
    expect([...(pin?.keys ?? [])].sort()).toEqual([a, b].map((i) => storePathHash(i.storePath)));
    expect(pin?.untilReboot).toBe(true);
    await roots.release();
    expect(await all(store.pins.list())).toEqual([]);
  });

  it("tells what comes and goes", async () => {
    await using opened = await openRoots();
    const { roots, pathInfos, store } = opened;
    const end = new AbortController();
    const changes = roots.changes({ signal: end.signal })[Symbol.asyncIterator]();
    const first = changes.next();
    const a = sample("1-a", { references: [] });
    await pathInfos.put(a);
    expect((await first).value).toMatchObject({ name: nameOf(a), root: { node } });
    const second = changes.next();
    await store.roots.delete(storePathHash(a.storePath));
    expect((await second).value).toEqual({ name: nameOf(a), root: undefined });
    const third = changes.next();
    end.abort();
    expect((await third).done).toBe(true);
  });
});
