import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { CHUNK_SIZES } from "../chunking/chunker.ts";
import { type Digest, digestBytes, digestOf, digestOfBytes } from "../model/digest.ts";
import { normalizeAt } from "../recipes/normal-form.ts";
import type { ChunkIndex } from "../services/chunk-index.ts";
import { type ChunkPlace, decodeChunkPlace } from "./chunk-rows.ts";
import { openBlobFile } from "./local-blob-reader.ts";
import { readBlobRow } from "./local-blob-service.ts";
import type { OpenStore } from "./open-store.ts";
import { seedPlaces } from "./seed-rows.ts";
import { afterPrefix, visitRows } from "./store-index.ts";

/** Places of one chunk that are tried: more would only hide that the disk is at fault. */
const PLACES_MAX = 8;

/** The chunks in the blobs of `store`, then those in its seeds. */
export function createLocalChunkIndex(store: OpenStore): ChunkIndex {
  return {
    async has(digests, { signal } = {}) {
      signal?.throwIfAborted();
      return digests.map((digest) => isIndexed(store, digest));
    },
    async get(chunk, { signal } = {}) {
      signal?.throwIfAborted();
      const own = readBlobRow(store, chunk.digest);
      // A larger blob is no chunk, and not to be read whole.
      if (own !== undefined && own.size <= CHUNK_SIZES.max) {
        const whole = { offset: 0, size: own.size, occurrences: [] };
        const bytes = await readPlace(store, chunk.digest, chunk.digest, whole);
        if (bytes !== undefined) return bytes;
      }
      for (const { blob, place } of placesOf(store, chunk.digest)) {
        signal?.throwIfAborted();
        const bytes = await readPlace(store, chunk.digest, blob, place);
        if (bytes !== undefined) return bytes;
      }
      return getSeed(store, chunk.digest, signal);
    },
  };
}

/** The chunk out of a file outside the store; a file that has not got it any more is forgotten. */
async function getSeed(
  store: OpenStore,
  chunk: Digest,
  signal: AbortSignal | undefined,
): Promise<Uint8Array | undefined> {
  for (const { key, path, place } of seedPlaces(store.index, digestBytes(chunk), PLACES_MAX)) {
    signal?.throwIfAborted();
    const bytes = await readFilePlace(path, place.offset, place.size).catch(() => undefined);
    if (bytes !== undefined && isChunk(bytes, chunk, place)) return bytes;
    if (!store.readOnly) await store.write({ type: "drop-seed", key });
  }
  return undefined;
}

async function readFilePlace(
  path: string,
  offset: number,
  size: number,
): Promise<Uint8Array | undefined> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const stat = await handle.stat();
    if (!stat.isFile() || stat.size < offset + size) return undefined;
    const bytes = Buffer.allocUnsafeSlow(size);
    for (let got = 0; got < size; ) {
      const { bytesRead } = await handle.read(bytes, got, size - got, offset + got);
      if (bytesRead === 0) return undefined;
      got += bytesRead;
    }
    return bytes;
  } finally {
    await handle.close();
  }
}

/** Turns `bytes` into the normal form, in place, and compares digests. */
function isChunk(bytes: Uint8Array, chunk: Digest, { occurrences }: ChunkPlace): boolean {
  const replaced = occurrences.map((offset) => ({ offset, reference: 0 }));
  normalizeAt(bytes, 0, replaced);
  return digestOf(bytes) === chunk;
}

function isIndexed(store: OpenStore, digest: Digest): boolean {
  const { rows } = store.index;
  const key = digestBytes(digest);
  if (rows.blobs.doesExist(key)) return true;
  if (seedPlaces(store.index, key, 1).length > 0) return true;
  let found = false;
  visitRows(rows.chunks, { start: key, end: afterPrefix(key) }, () => {
    found = true;
    return false;
  });
  return found;
}

function placesOf(
  store: OpenStore,
  chunk: Digest,
): { readonly blob: Digest; readonly place: ChunkPlace }[] {
  const key = digestBytes(chunk);
  const places: { blob: Digest; place: ChunkPlace }[] = [];
  visitRows(store.index.rows.chunks, { start: key, end: afterPrefix(key) }, (pair, row) => {
    const blob = digestOfBytes(Uint8Array.prototype.slice.call(pair, key.byteLength));
    const place = decodeChunkPlace(Uint8Array.prototype.slice.call(row));
    if (place !== undefined) places.push({ blob, place });
    return places.length < PLACES_MAX;
  });
  return places;
}

/** The chunk out of one place; undefined where the bytes there are not it. */
async function readPlace(
  store: OpenStore,
  chunk: Digest,
  blob: Digest,
  place: ChunkPlace,
): Promise<Uint8Array | undefined> {
  const row = readBlobRow(store, blob);
  if (row === undefined || place.offset + place.size > row.size) return undefined;
  const bytes =
    row.inline?.subarray(place.offset, place.offset + place.size) ??
    (await readFileRange(store, blob, row.size, place.offset, place.size));
  if (bytes === undefined) return undefined;
  return isChunk(bytes, chunk, place) ? bytes : undefined;
}

/** A file that cannot be read is a miss here: the chunk may be elsewhere. */
async function readFileRange(
  store: OpenStore,
  blob: Digest,
  size: number,
  offset: number,
  length: number,
): Promise<Uint8Array | undefined> {
  const reader = await openBlobFile(store, blob, size).catch(() => undefined);
  if (reader === undefined) return undefined;
  try {
    const pieces: Uint8Array[] = [];
    for await (const piece of reader.stream(offset, offset + length)) pieces.push(piece);
    return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces, length);
  } catch {
    return undefined;
  } finally {
    await reader.close();
  }
}
