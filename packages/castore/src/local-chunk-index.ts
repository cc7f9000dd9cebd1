import type { ChunkIndex } from "./chunk-index.ts";
import { type ChunkPlace, decodeChunkPlace } from "./chunk-rows.ts";
import { CHUNK_SIZES } from "./chunker.ts";
import { type Digest, digestBytes, digestOf, digestOfBytes } from "./digest.ts";
import { openBlobFile } from "./local-blob-reader.ts";
import { readBlobRow } from "./local-blob-service.ts";
import { normalizeAt } from "./normal-form.ts";
import type { OpenStore } from "./open-store.ts";
import { afterPrefix, visitRows } from "./store-index.ts";

/** Places of one chunk that are tried: more would only hide that the disk is at fault. */
const PLACES_MAX = 8;

/** The chunks in the blobs of `store`. */
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
      return undefined;
    },
  };
}

function isIndexed(store: OpenStore, digest: Digest): boolean {
  const { rows } = store.index;
  const key = digestBytes(digest);
  if (rows.blobs.doesExist(key)) return true;
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
    places.push({ blob, place: decodeChunkPlace(Uint8Array.prototype.slice.call(row)) });
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
  normalizeAt(
    bytes,
    0,
    place.occurrences.map((offset) => ({ offset, reference: 0 })),
  );
  return digestOf(bytes) === chunk ? bytes : undefined;
}

/** A file that cannot be read is a miss here: the chunk may be elsewhere. */
async function readFileRange(
  store: OpenStore,
  blob: Digest,
  size: number,
  offset: number,
  length: number,
): Promise<Uint8Array | undefined> {
  const path = store.layout.blob(blob);
  const reader = await openBlobFile(path, blob, size).catch(() => undefined);
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
