import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Node, openLocalStore, parseDigest, parseEntryText } from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { narHashOf } from "../src/nix/nix-hash.ts";
import { RootSigningKey, TrustedRootKeys } from "../src/nix/signed-root.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { createLocalPathInfoService } from "../src/path-infos/local-path-info-service.ts";
import type { PathInfo } from "../src/path-infos/path-info.ts";
import { decodeStoredPathInfo, encodeStoredPathInfo } from "../src/path-infos/stored-path-info.ts";
import { describePathInfoService, samplePathInfo } from "./path-info-service-suite.ts";
import { vectors } from "./vectors.ts";

const KEY = RootSigningKey.parse(vectors.signing[0]?.keypair ?? "");
const rootKeys = TrustedRootKeys.parse([KEY.publicKey.text]);
const vouched = { by: "vouched", key: KEY.publicKey.text } as const;
const rendered = { by: "rendered" } as const;
const upstream = { url: "https://cache.example.com/", narInfo: "StorePath: \u00e9\n" };
const sample = samplePathInfo("1-a");
const hashOf = ({ storePath }: PathInfo) => storePathHash(storePath);

let root = "";
let count = 0;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "local-path-infos-"));
});
afterAll(() => rm(root, { recursive: true }));

/** A service over an empty store that counts the NARs it calculates, all of them the sample's. */
async function openService() {
  const path = join(root, `${count++}`);
  const store = await openLocalStore({ path, create: true });
  const calculated: Node[] = [];
  const calculateNar = async (node: Node) => {
    calculated.push(node);
    return { narHash: sample.narHash, narSize: sample.narSize };
  };
  const service = createLocalPathInfoService(store, { calculateNar, rootKeys });
  const close = () => store.close();
  return { path, store, calculated, calculateNar, service, close, [Symbol.asyncDispose]: close };
}

describePathInfoService("a local store", openService);

describe("createLocalPathInfoService()", () => {
  it("gives back how a root was proven and the narinfo of its upstream", async () => {
    await using opened = await openService();
    const { service } = opened;
    const other = samplePathInfo("2-b", { narHash: narHashOf(new Uint8Array(32)) });
    const stored = [
      { pathInfo: sample, proof: rendered, upstream },
      { pathInfo: other, proof: vouched, upstream: undefined },
    ];
    await service.putStored(stored);
    expect(await service.getStored(hashOf(sample))).toEqual(stored[0]);
    expect(await service.getStored(hashOf(other))).toEqual(stored[1]);
    const listed = [];
    for await (const one of service.listStored()) listed.push(one);
    expect(listed).toEqual(stored);
  });

  it("has all of it again when the store is opened again", async () => {
    const first = await openService();
    const stored = { pathInfo: sample, proof: rendered, upstream };
    await first.service.putStored([stored]);
    await first.close();
    await using store = await openLocalStore({ path: first.path });
    const service = createLocalPathInfoService(store, { calculateNar: first.calculateNar });
    expect(await service.getStored(hashOf(sample))).toEqual(stored);
    expect(service.findNar(sample.narHash)?.node).toEqual(sample.node);
  });

  it("stores none of several where one's root is not in the store", async () => {
    await using opened = await openService();
    const digest = parseDigest("11".repeat(32));
    const node = { type: "file", digest, size: 1, executable: false } as const;
    const missing = { ...samplePathInfo("2-b"), node };
    const put = opened.service.putStored([
      { pathInfo: sample, proof: rendered },
      { pathInfo: missing, proof: vouched },
    ]);
    await expect(put).rejects.toMatchObject({ code: "INCOMPLETE" });
    expect(await opened.service.get(hashOf(sample))).toBeUndefined();
    expect(opened.service.findNar(sample.narHash)).toBeUndefined();
  });

  it("hides what a key vouched for that is no longer trusted", async () => {
    await using opened = await openService();
    const { service, store, calculateNar } = opened;
    await service.putStored([{ pathInfo: sample, proof: vouched }]);
    expect(await service.get(hashOf(sample))).toEqual(sample);
    expect(service.findNar(sample.narHash)).toBeUndefined();
    const without = createLocalPathInfoService(store, { calculateNar });
    expect(await without.get(hashOf(sample))).toBeUndefined();
    for await (const { storePath } of without.list()) expect(storePath).toBeUndefined();
  });

  it("knows a NAR that was rendered once, and does not calculate it again", async () => {
    await using opened = await openService();
    const { service, calculated } = opened;
    await service.put(sample);
    await service.put(samplePathInfo("2-b"));
    expect(calculated).toEqual([sample.node]);
    const { narHash, narSize, node } = sample;
    expect(service.findNar(narHash)).toEqual({ narHash, narSize, node });
    const stored = { pathInfo: sample, proof: vouched };
    await service.putStored([stored]);
    expect(await service.getStored(hashOf(sample))).toMatchObject({ proof: rendered });
  });

  it("knows a NAR before any path info of it", async () => {
    await using opened = await openService();
    const { service, calculated } = opened;
    await service.putNars([sample]);
    await service.put(sample);
    expect(calculated).toEqual([]);
    await service.put({ ...sample, node: parseEntryText("GgMSAWE") });
    expect(calculated).toHaveLength(1);
  });

  it("stores nothing whose NAR has another hash or size", async () => {
    for (const change of [{ narSize: 137 }, { narHash: narHashOf(new Uint8Array(32)) }]) {
      await using opened = await openService();
      const { service } = opened;
      const put = service.put({ ...sample, ...change });
      await expect(put).rejects.toMatchObject({ code: "CORRUPT" });
      expect(await service.get(hashOf(sample))).toBeUndefined();
    }
  });

  it("passes over roots that are no store paths, and names a damaged one", async () => {
    await using opened = await openService();
    const { service, store } = opened;
    const { node } = sample;
    const payload = encodeStoredPathInfo({ pathInfo: sample, proof: rendered }).subarray(0, 20);
    await store.roots.put([{ key: "pin:x", node, references: [], payload }]);
    for await (const { storePath } of service.list()) expect(storePath).toBeUndefined();
    await store.roots.put([{ key: hashOf(sample), node, references: [], payload }]);
    await expect(service.get(hashOf(sample))).rejects.toMatchObject({
      code: "CORRUPT",
      message: expect.stringContaining(hashOf(sample)),
    });
  });

  it("keeps the references of a path alive with it", async () => {
    await using opened = await openService();
    const { service, store } = opened;
    const pathInfo = samplePathInfo("2-b", { references: [sample.storePath] });
    await service.put(pathInfo);
    const record = await store.roots.get(hashOf(pathInfo));
    expect(record).toMatchObject({ node: sample.node, references: [hashOf(sample)] });
  });
});

describe("a stored path info", () => {
  it("is the same after it was encoded", () => {
    for (const stored of [
      { pathInfo: sample, proof: rendered, upstream },
      { pathInfo: { ...sample, storeDir: "/other" as typeof sample.storeDir }, proof: vouched },
    ]) {
      expect(decodeStoredPathInfo(encodeStoredPathInfo(stored))).toEqual(stored);
    }
  });

  it("is INVALID where it does not even name its store", () => {
    expect(() => decodeStoredPathInfo(new Uint8Array(0))).toThrowError(
      expect.objectContaining({ code: "INVALID" }),
    );
  });
});
