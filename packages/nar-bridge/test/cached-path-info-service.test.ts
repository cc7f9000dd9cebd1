import { CastoreError } from "@castore/castore";
import { describe, expect, test } from "vitest";
import { storePathHash } from "../src/nix/store-path.ts";
import {
  createCachedPathInfoService,
  createFirstPathInfoService,
} from "../src/path-infos/cached-path-info-service.ts";
import {
  createMemoryPathInfoService,
  type PathInfoService,
} from "../src/path-infos/path-info-service.ts";
import { describePathInfoService, samplePathInfo } from "./path-info-service-suite.ts";

const close = async (): Promise<void> => {};
const pair = () => [createMemoryPathInfoService(), createMemoryPathInfoService()] as const;

describePathInfoService("cached, written through", async () => {
  const [near, far] = pair();
  return { service: createCachedPathInfoService(near, far), close };
});

describePathInfoService("first of two, found in the second", async () => {
  const [one, two] = pair();
  return { service: { ...createFirstPathInfoService([one, two]), put: two.put }, close };
});

describe("a cache of path infos", () => {
  const pathInfo = samplePathInfo("1-a");
  const storeHash = storePathHash(pathInfo.storePath);

  test("asks far once, however many wait, and keeps the answer", async () => {
    const [near, memory] = pair();
    await memory.put(pathInfo);
    let asked = 0;
    const far: PathInfoService = {
      ...memory,
      get(...args) {
        asked++;
        return memory.get(...args);
      },
    };
    const cached = createCachedPathInfoService(near, far);
    const all = await Promise.all(Array.from({ length: 20 }, () => cached.get(storeHash)));
    expect(all.every((it) => it?.storePath === pathInfo.storePath)).toBe(true);
    await cached.get(storeHash);
    expect(asked).toBe(1);
    expect(await near.get(storeHash)).toEqual(pathInfo);
  });

  test("believes for a second that far lacks a path", async () => {
    const [near, far] = pair();
    let time = 0;
    const cached = createCachedPathInfoService(near, far, { now: () => time });
    expect(await cached.get(storeHash)).toBeUndefined();
    await far.put(pathInfo);
    expect(await cached.get(storeHash)).toBeUndefined();
    time = 1_000;
    expect(await cached.get(storeHash)).toEqual(pathInfo);
  });

  test.each(["INCOMPLETE", "EXHAUSTED", "READ_ONLY"] as const)(
    "what near refuses as %s is served all the same",
    async (code) => {
      const [near, far] = pair();
      await far.put(pathInfo);
      const put = () => Promise.reject(new CastoreError(code, "no"));
      const cached = createCachedPathInfoService({ ...near, put }, far);
      expect(await cached.get(storeHash)).toEqual(pathInfo);
    },
  );

  test("lists what both have, each path once", async () => {
    const [near, far] = pair();
    await near.put(pathInfo);
    await far.put(pathInfo);
    await far.put(samplePathInfo("2-b"));
    const listed: string[] = [];
    for await (const it of createCachedPathInfoService(near, far).list()) listed.push(it.storePath);
    expect(listed).toEqual([pathInfo.storePath, samplePathInfo("2-b").storePath]);
  });
});
