import {
  type Digest,
  type Directory,
  digestOf,
  directoryOf,
  encodeDirectory,
  type LocalStore,
  openLocalStore,
  parsePathComponent,
  parseSymlinkTarget,
} from "@castore/castore";
import {
  createLocalPathInfoService,
  type LocalPathInfoService,
  NIX_STORE_DIR,
  narHashOf,
  parseSignature,
  parseStorePath,
  type StoredPathInfo,
  type StoreHash,
  storeHashOf,
  storePathHash,
} from "@castore/nar-bridge";

const BATCH = 1_000;
/** Paths refer only to others of their block: closures of some twenty paths, as is usual. */
const BLOCK = 50;
const SIGNATURE = parseSignature(`bench-1:${Buffer.alloc(64, 7).toString("base64")}`);

/** A store of path infos, each with a directory and two files that are its own. */
export interface PathStore extends AsyncDisposable {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
}

export async function openPathStore(path: string, create = false): Promise<PathStore> {
  const store = await openLocalStore({ path, create });
  const calculateNar = () => Promise.reject(new Error("a bench renders no NAR"));
  const pathInfos = createLocalPathInfoService(store, { calculateNar });
  return { store, pathInfos, [Symbol.asyncDispose]: () => store.close() };
}

/** Makes a store of `count` path infos at `path`, or goes on where an earlier run was stopped. */
export async function writePathStore(path: string, count: number): Promise<void> {
  await using opened = await openPathStore(path, true);
  const done = opened.store.stats().roots;
  for (let from = done - (done % BATCH); from < count; from += BATCH) {
    const indexes = Array.from({ length: Math.min(BATCH, count - from) }, (_, i) => from + i);
    await putBatch(opened, indexes);
  }
}

/** The store hash of the path of this number. */
export function storeHashAt(index: number): StoreHash {
  return storePathHash(storePathAt(index));
}

/** The digest of its root. */
export function rootDigestAt(index: number): Digest {
  return digestOf(encodeDirectory(directoryAt(index)));
}

async function putBatch({ store, pathInfos }: PathStore, indexes: number[]): Promise<void> {
  const lease = store.lease();
  try {
    const blobs = indexes.flatMap(filesAt).map((bytes) => store.blobs.put([bytes]));
    const roots = indexes.map((index) => store.directories.putClosure([directoryAt(index)]));
    await Promise.all([...blobs, ...roots]);
    await pathInfos.putStored(indexes.map(pathInfoAt));
  } finally {
    lease.release();
  }
}

function filesAt(index: number): Buffer[] {
  return [Buffer.from(`program ${index}\n`.repeat(20)), Buffer.from(`manual of ${index}\n`)];
}

function directoryAt(index: number): Directory {
  const files = filesAt(index).map((bytes, at) => ({
    name: parsePathComponent(Buffer.from(["bin-program", "manual.txt"][at] ?? "")),
    node: {
      type: "file" as const,
      digest: digestOf(bytes),
      size: bytes.byteLength,
      executable: at === 0,
    },
  }));
  const name = parsePathComponent(Buffer.from("link"));
  const target = parseSymlinkTarget(Buffer.from(`../${storePathAt(index)}/manual.txt`));
  return directoryOf([...files, { name, node: { type: "symlink", target } }]);
}

function storePathAt(index: number) {
  const digest = Buffer.from(digestOf(Buffer.from(`path ${index}`)), "hex");
  return parseStorePath(`${storeHashOf(digest.subarray(0, 20))}-package-${index}`);
}

function pathInfoAt(index: number): StoredPathInfo {
  const directory = directoryAt(index);
  const digest = digestOf(encodeDirectory(directory));
  const earlier = [index - 1, index - 7, index - 19].filter(
    (other) => other >= 0 && Math.floor(other / BLOCK) === Math.floor(index / BLOCK),
  );
  const pathInfo = {
    storeDir: NIX_STORE_DIR,
    storePath: storePathAt(index),
    node: { type: "directory", digest, size: directory.size } as const,
    narHash: narHashOf(Buffer.from(digestOf(Buffer.from(`nar ${index}`)), "hex")),
    narSize: 1000 + index,
    references: earlier.map(storePathAt),
    deriver: undefined,
    signatures: [SIGNATURE],
    rootSignatures: [],
  };
  return { pathInfo, proof: { by: "rendered" } };
}
