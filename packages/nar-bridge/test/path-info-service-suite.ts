import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseContentAddress } from "../src/nix/content-address.ts";
import { parseSignature } from "../src/nix/signature.ts";
import { parseRootSignature } from "../src/nix/signed-root.ts";
import { parseStoreHash, parseStorePath, storePathHash } from "../src/nix/store-path.ts";
import type { PathInfo } from "../src/path-infos/path-info.ts";
import { decodePathInfo } from "../src/path-infos/path-info-codec.ts";
import type { PathInfoService } from "../src/path-infos/path-info-service.ts";
import { vectors } from "./vectors.ts";

export interface PathInfoServiceFixture {
  readonly service: PathInfoService;
  close(): Promise<void>;
}

/** What an implementation cannot do. */
export interface PathInfoServiceTraits {
  /** It speaks snix's PathInfo, which has no root signatures. */
  readonly noRootSignatures?: boolean;
}

const { proto_hex = "" } = vectors.pathinfos.PATH_INFO_SYMLINK ?? {};
const SIGNATURE = vectors.narinfos[0]?.sigs[0]?.sig ?? "";

/** A path info with the root and the NAR of snix's PATH_INFO_SYMLINK, so that any check holds. */
export function samplePathInfo(name: string, changes: Partial<PathInfo> = {}): PathInfo {
  const storePath = parseStorePath(`${"0".repeat(31)}${name[0]}-${name}`);
  return { ...decodePathInfo(Buffer.from(proto_hex, "hex")), storePath, ...changes };
}

/** The contract of PathInfoService. Every implementation calls this once. */
export function describePathInfoService(
  name: string,
  make: () => Promise<PathInfoServiceFixture>,
  traits: PathInfoServiceTraits = {},
): void {
  describe(`${name} as a PathInfoService`, () => {
    let fixture: PathInfoServiceFixture;
    let service: PathInfoService;
    beforeEach(async () => {
      fixture = await make();
      service = fixture.service;
    });
    afterEach(() => fixture.close());

    const listAll = async () => {
      const found: PathInfo[] = [];
      for await (const pathInfo of service.list()) found.push(pathInfo);
      return found.sort((a, b) => (a.storePath < b.storePath ? -1 : 1));
    };
    const getBack = (pathInfo: PathInfo) => service.get(storePathHash(pathInfo.storePath));

    it("has nothing at first", async () => {
      expect(await service.get(parseStoreHash("0".repeat(32)))).toBeUndefined();
      expect(await listAll()).toEqual([]);
    });

    it("gives back all of what was put, by store hash and in the list", async () => {
      const plain = samplePathInfo("1-plain");
      const full = samplePathInfo("2-full", {
        references: [plain.storePath, parseStorePath(`${"0".repeat(31)}2-2-full`)],
        deriver: parseStorePath(`${"0".repeat(31)}3-full.drv`),
        signatures: [parseSignature(SIGNATURE), parseSignature(SIGNATURE.replace(/^[^:]*/, "b"))],
        ca: parseContentAddress(vectors.ca_strings[0]?.[0] ?? ""),
        rootSignatures: traits.noRootSignatures ? [] : [parseRootSignature(SIGNATURE)],
      });
      expect(await service.put(plain)).toEqual(plain);
      expect(await service.put(full)).toEqual(full);
      expect(await getBack(plain)).toEqual(plain);
      expect(await getBack(full)).toEqual(full);
      expect(await listAll()).toEqual([plain, full]);
    });

    it("replaces the path info of the same store hash", async () => {
      const old = samplePathInfo("1-a");
      const signatures = [parseSignature(SIGNATURE)];
      await service.put(old);
      await service.put({ ...old, signatures });
      expect(await listAll()).toEqual([{ ...old, signatures }]);
      expect(await getBack(old)).toEqual({ ...old, signatures });
    });

    it("stores many at once, and lists each once", async () => {
      const all = [..."0123456789abcdfghijk"].map((digit) => samplePathInfo(`${digit}-x`));
      await Promise.all(all.map((pathInfo) => service.put(pathInfo)));
      expect(await listAll()).toEqual(all);
    });

    it("does nothing for a caller who has gone", async () => {
      const signal = AbortSignal.abort(new Error("gone"));
      const pathInfo = samplePathInfo("1-a");
      await expect(service.put(pathInfo, { signal })).rejects.toThrowError("gone");
      expect(await getBack(pathInfo)).toBeUndefined();
      await service.put(pathInfo);
      const { storePath } = pathInfo;
      await expect(service.get(storePathHash(storePath), { signal })).rejects.toThrowError("gone");
      const listing = service.list({ signal })[Symbol.asyncIterator]();
      await expect(listing.next()).rejects.toThrowError("gone");
    });
  });
}
