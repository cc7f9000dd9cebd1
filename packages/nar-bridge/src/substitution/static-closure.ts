import {
  type ByteSource,
  type CallOptions,
  CastoreError,
  type ClosureRequest,
  createZstdDecoder,
  type Digest,
  decodeDirectoryStream,
  inParallel,
  objectKey,
} from "@castore/castore";
import { parseStoreHash, type StoreHash, storePathHash } from "../nix/store-path.ts";
import {
  CLOSURE_RECORD_BYTES_MAX,
  type ClosureRecord,
  decodeClosureStream,
} from "../path-infos/closure-stream.ts";
import type { PathInfo } from "../path-infos/path-info.ts";
import {
  decodeSignedPathInfo,
  encodeSignedPathInfo,
  PATH_INFO_BYTES_MAX,
} from "../path-infos/path-info-codec.ts";

/** Paths whose files are fetched at once. */
const PATHS_PARALLEL = 8;

/** Opens a file of a static server; undefined where it is not there. */
export type OpenFile = (path: string, options: CallOptions) => Promise<ByteSource | undefined>;

/**
 * Answers `query` from the files of a static server: one request for a whole closure where the
 * server has it, and where references are followed; else up to three for each path.
 */
export async function* staticClosure(
  open: OpenFile,
  query: ClosureRequest,
  options: CallOptions,
): AsyncGenerator<ClosureRecord, void, undefined> {
  const met = new Set<StoreHash>([...query.wanted, ...query.known].map(parseStoreHash));
  let level = query.wanted.map(parseStoreHash);
  if (query.follow) level = yield* wholeClosures(open, query, met, options);
  const get = (storeHash: StoreHash, signal: AbortSignal) =>
    pathRecords(open, storeHash, { signal });
  while (level.length > 0) {
    const next: StoreHash[] = [];
    for await (const { records, references } of inParallel(level, PATHS_PARALLEL, get, options)) {
      yield* records;
      if (!query.follow) continue;
      for (const reference of references) if (!met.has(reference)) next.push(reference);
      for (const reference of references) met.add(reference);
    }
    level = next;
  }
}

/** The closures that the server has whole; returns what is to be asked for path by path. */
async function* wholeClosures(
  open: OpenFile,
  { wanted, summaries }: ClosureRequest,
  met: Set<StoreHash>,
  options: CallOptions,
): AsyncGenerator<ClosureRecord, StoreHash[], undefined> {
  const rest: StoreHash[] = [];
  for (const root of wanted.map(parseStoreHash)) {
    const source = await open(`${summaries ? "summaries" : "closure"}/${root}`, options);
    if (source === undefined) {
      rest.push(root);
      continue;
    }
    for await (const record of decodeClosureStream(createZstdDecoder()(source))) {
      if (record.kind === "leftOut") rest.push(record.storeHash);
      else yield record;
      if (record.kind === "pathInfo") {
        met.add(storePathHash(decodeSignedPathInfo(record.bytes).storePath));
      }
    }
  }
  return rest;
}

interface PathRecords {
  readonly records: readonly ClosureRecord[];
  readonly references: readonly StoreHash[];
}

/** What is there of one path. A path without its directories or recipe is not there. */
async function pathRecords(
  open: OpenFile,
  storeHash: StoreHash,
  options: CallOptions,
): Promise<PathRecords> {
  const absent: PathRecords = { records: [{ kind: "absent", storeHash }], references: [] };
  const source = await open(`pathinfo/${storeHash}`, options);
  if (source === undefined) return absent;
  const bytes = await joined(source, PATH_INFO_BYTES_MAX);
  const pathInfo = decodeSignedPathInfo(bytes);
  const contents = await readContents(open, pathInfo, options);
  if (contents === undefined) return absent;
  const records: ClosureRecord[] = [{ kind: "pathInfo", bytes }, ...contents];
  return { records, references: pathInfo.references.map(storePathHash) };
}

/** The records of a path whose path info is known; that it is absent, where a file is missing. */
export async function* contentsFiles(
  open: OpenFile,
  pathInfo: PathInfo,
  options: CallOptions,
): AsyncGenerator<ClosureRecord, void, undefined> {
  const contents = await readContents(open, pathInfo, options);
  if (contents === undefined) {
    yield { kind: "absent", storeHash: storePathHash(pathInfo.storePath) };
    return;
  }
  yield { kind: "pathInfo", bytes: encodeSignedPathInfo(pathInfo) };
  yield* contents;
}

/** Directories and recipe; undefined where one of the files is not there. */
async function readContents(
  open: OpenFile,
  { node }: PathInfo,
  options: CallOptions,
): Promise<ClosureRecord[] | undefined> {
  if (node.type === "symlink") return [];
  const [directories, recipe] = await Promise.all([
    node.type === "directory" ? readDirectories(open, node.digest, options) : [],
    readRecipe(open, node.digest, options),
  ]);
  return directories && recipe && [...directories, recipe];
}

async function readDirectories(
  open: OpenFile,
  root: Digest,
  options: CallOptions,
): Promise<ClosureRecord[] | undefined> {
  const source = await open(objectKey("dirs", root), options);
  if (source === undefined) return undefined;
  const records: ClosureRecord[] = [];
  for await (const bytes of decodeDirectoryStream(source)) {
    records.push({ kind: "directory", bytes });
  }
  return records;
}

async function readRecipe(
  open: OpenFile,
  root: Digest,
  options: CallOptions,
): Promise<ClosureRecord | undefined> {
  const source = await open(`recipe/${root}`, options);
  if (source === undefined) return undefined;
  const message = createZstdDecoder({ sizeMax: CLOSURE_RECORD_BYTES_MAX })(source);
  return { kind: "recipe", root, bytes: await joined(message, CLOSURE_RECORD_BYTES_MAX) };
}

async function joined(source: ByteSource, bytesMax: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of source) {
    pieces.push(piece);
    size += piece.byteLength;
    if (size > bytesMax) throw new CastoreError("EXHAUSTED", `a file of over ${bytesMax} bytes`);
  }
  return Buffer.concat(pieces);
}
