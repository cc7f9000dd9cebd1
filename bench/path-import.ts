import { createHash, generateKeyPairSync } from "node:crypto";
import { ingestTree, type LocalStore } from "@castore/castore";
import {
  calculateNar,
  createLocalPathInfoService,
  formatFingerprint,
  type LocalPathInfoService,
  NIX_STORE_DIR,
  type PathInfo,
  RootSigningKey,
  SecretKey,
  type StorePath,
  signFingerprint,
  storePathOf,
} from "@castore/nar-bridge";

/** Keys of one corpus: for narinfos, and for roots. */
export interface BenchKeys {
  readonly narInfo: SecretKey;
  readonly root: RootSigningKey;
}

export function createBenchKeys(): BenchKeys {
  return {
    narInfo: SecretKey.parse(secretKeyText("bench-1")),
    root: RootSigningKey.parse(secretKeyText("bench-roots-1")),
  };
}

export function pathInfosOf(store: LocalStore): LocalPathInfoService {
  return createLocalPathInfoService(store, {
    calculateNar: (node, options) => calculateNar(node, store, options),
  });
}

/** The store path of this name: each run has the same. */
export function benchPath(name: string): StorePath {
  return storePathOf(createHash("sha1").update(name).digest(), name);
}

/** Puts what lies at `path` into the store as a store path of this name, signed by both keys. */
export async function importPath(
  store: LocalStore,
  path: string,
  { name, references, keys }: { name: string; references: readonly StorePath[]; keys: BenchKeys },
): Promise<StorePath> {
  using _lease = store.lease();
  const node = await ingestTree(path, store);
  const nar = await calculateNar(node, store);
  const storePath = benchPath(name);
  const unsigned = { storeDir: NIX_STORE_DIR, storePath, node, ...nar, references };
  const pathInfo: PathInfo = {
    ...unsigned,
    deriver: undefined,
    signatures: [signFingerprint(keys.narInfo, formatFingerprint(unsigned))],
    rootSignatures: [keys.root.sign(unsigned, node)],
  };
  await pathInfosOf(store).putStored([{ pathInfo, proof: { by: "rendered" } }]);
  return storePath;
}

function secretKeyText(name: string): string {
  const { d = "", x = "" } = generateKeyPairSync("ed25519").privateKey.export({ format: "jwk" });
  const bytes = Buffer.concat([Buffer.from(d, "base64url"), Buffer.from(x, "base64url")]);
  return `${name}:${bytes.toString("base64")}`;
}
