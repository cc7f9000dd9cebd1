import {
  type BlobService,
  type CallOptions,
  CastoreError,
  type Digest,
  denormalize,
  GROUP_BYTES,
  type LocalStore,
  type RecipeChunk,
  VerifiedGroups,
} from "@castore/castore";
import { LRUCache } from "lru-cache";
import type { GatheredFetches } from "./gathered-fetches.ts";
import type { BlobSource } from "./lazy-paths.ts";

/** Smaller blobs are fetched whole: a few chunks more save an outboard. */
export const RANGED_BYTES_MIN = 1 << 20;
/** What is asked for at once, and held, of one read. */
const WINDOW_BYTES = 8 << 20;
/** Chunks that came lately, of 512 KiB at most: the next read often needs them again. Default. */
const CHUNKS_MAX = 48;
/** Chaining values: those of 16 GiB of blobs. */
const VALUES_BYTES_MAX = 32 << 20;
/** Blobs of which it is known what was read. */
const BLOBS_MAX = 4_096;
/** Chunks that wait for the disk; what comes beyond that is not kept. */
const KEEPING_MAX = 32;

/** Where contents are looked for, and where what was fetched is kept as long as there is room. */
export interface ContentsStore {
  readonly blobs: Pick<BlobService, "open" | "put">;
  readonly chunks: LocalStore["chunks"];
}

export interface LazyRangesOptions {
  readonly store: ContentsStore;
  readonly fetches: GatheredFetches;
  /** Told once all chunks of a blob have been here. */
  readonly onWhole: (source: BlobSource) => void;
  /** Most chunks that are kept in memory. Default CHUNKS_MAX. */
  readonly chunksMax?: number | undefined;
}

/** A chunk, and where it lies in its blob. */
interface PlacedChunk {
  readonly chunk: RecipeChunk;
  readonly index: number;
  readonly start: number;
}

/**
 * Reads parts of large blobs: the chunks that cover a part are fetched, and its groups verified
 * against the blob's digest by an outboard. Chunks are put into the store, where the next read
 * finds them; nothing holds them there, so a collection may take them.
 */
export class LazyRanges {
  readonly #options: LazyRangesOptions;
  readonly #chunks: LRUCache<Digest, Promise<Uint8Array>>;
  readonly #groups = new LRUCache<Digest, VerifiedGroups>({
    maxSize: VALUES_BYTES_MAX,
    sizeCalculation: ({ bytes }) => bytes,
  });
  readonly #asking = new Map<Digest, Promise<VerifiedGroups>>();
  readonly #seen = new LRUCache<Digest, Set<number>>({ max: BLOBS_MAX });
  readonly #keeping = new Set<Promise<unknown>>();

  constructor(options: LazyRangesOptions) {
    this.#options = options;
    this.#chunks = new LRUCache({ max: options.chunksMax ?? CHUNKS_MAX });
  }

  /** Whether parts of the blob can be had from there. */
  async isOffered({ blob, way }: BlobSource, options: CallOptions): Promise<boolean> {
    if (blob.size < RANGED_BYTES_MIN) return false;
    return (await way.endpoint.info(options)).features.has("outboard");
  }

  /** The verified bytes [start, end). */
  async *stream(
    source: BlobSource,
    { start, end }: { readonly start: number; readonly end: number },
    options: CallOptions,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { size } = source.blob;
    const asked = this.#groupsOf(source, options);
    asked.catch(() => {}); // told below
    for (let from = start - (start % GROUP_BYTES); from < end; from += WINDOW_BYTES) {
      const to = Math.min(Math.ceil(end / GROUP_BYTES) * GROUP_BYTES, from + WINDOW_BYTES, size);
      const window = { from, to };
      const pieces = await this.#load(source, window, options);
      yield* this.#verified(source, { window, pieces, groups: await asked, start, end });
    }
  }

  /** Resolves once what came is in the store. */
  async idle(): Promise<void> {
    await Promise.all(this.#keeping);
  }

  async *#verified(
    { blob, references }: BlobSource,
    {
      window: { from, to },
      pieces,
      groups,
      start,
      end,
    }: {
      readonly window: { readonly from: number; readonly to: number };
      readonly pieces: readonly (readonly [PlacedChunk, Promise<Uint8Array>])[];
      readonly groups: VerifiedGroups;
      readonly start: number;
      readonly end: number;
    },
  ): AsyncGenerator<Uint8Array, void, undefined> {
    let at = from;
    let rest: Uint8Array = new Uint8Array(0);
    for (const [placed, coming] of pieces) {
      // A copy: what came is shared, and this becomes the receiver's.
      const bytes = Uint8Array.from(await coming);
      denormalize(bytes, placed.start, blob.occurrences, references);
      const part = bytes.subarray(Math.max(from - placed.start, 0), to - placed.start);
      const joined = rest.byteLength === 0 ? part : Buffer.concat([rest, part]);
      const isLast = at + joined.byteLength === to;
      const whole = isLast
        ? joined.byteLength
        : joined.byteLength - (joined.byteLength % GROUP_BYTES);
      groups.verify(at, joined.subarray(0, whole));
      const piece = joined.subarray(
        Math.max(start - at, 0),
        Math.min(whole, Math.max(end - at, 0)),
      );
      if (piece.byteLength > 0) yield piece;
      rest = joined.subarray(whole);
      at += whole;
    }
    if (at !== to) throw new CastoreError("CORRUPT", `blob ${blob.digest}: chunks end at ${at}`);
  }

  /** The chunks that cover the window, all of them under way. */
  async #load(
    source: BlobSource,
    window: { readonly from: number; readonly to: number },
    options: CallOptions,
  ): Promise<(readonly [PlacedChunk, Promise<Uint8Array>])[]> {
    const placed = coveringChunks(source, window);
    const { chunks } = this.#options.store;
    const isThere = await chunks.has(
      placed.map(({ chunk }) => chunk.digest),
      options,
    );
    const seen = this.#seen.get(source.blob.digest) ?? new Set();
    this.#seen.set(source.blob.digest, seen);
    return placed.map((one, index) => {
      const coming = this.#chunk(source, one.chunk, isThere[index] === true, options);
      coming.then(
        () => {
          const before = seen.size;
          seen.add(one.index);
          if (seen.size > before && seen.size === source.blob.chunks.length)
            this.#options.onWhole(source);
        },
        () => {}, // told to whoever waits for it
      );
      return [one, coming] as const;
    });
  }

  #chunk(
    { way }: BlobSource,
    chunk: RecipeChunk,
    isThere: boolean,
    options: CallOptions,
  ): Promise<Uint8Array> {
    const { digest } = chunk;
    const known = this.#chunks.get(digest);
    if (known !== undefined) return known;
    const { store, fetches } = this.#options;
    const fetch = async (): Promise<Uint8Array> => {
      const bytes = await fetches.run(way, [chunk], (plan) => plan.take(chunk));
      this.#keep(digest, bytes);
      return bytes;
    };
    const coming = isThere
      ? store.chunks.get(chunk, options).then((bytes) => bytes ?? fetch())
      : fetch();
    this.#chunks.set(digest, coming);
    coming.catch(() => this.#chunks.delete(digest));
    return coming;
  }

  #keep(digest: Digest, bytes: Uint8Array): void {
    if (this.#keeping.size >= KEEPING_MAX) return;
    // A full disk only means that it is fetched again some day.
    const put = this.#options.store.blobs.put([bytes], { expect: digest, proven: true });
    const keeping = put.catch(() => {});
    this.#keeping.add(keeping);
    void keeping.finally(() => this.#keeping.delete(keeping));
  }

  async #groupsOf(source: BlobSource, options: CallOptions): Promise<VerifiedGroups> {
    const { digest } = source.blob;
    const known = this.#groups.get(digest) ?? this.#asking.get(digest);
    if (known !== undefined) return await known;
    const asking = this.#ask(source, options).finally(() => this.#asking.delete(digest));
    this.#asking.set(digest, asking);
    return await asking;
  }

  async #ask({ blob, way }: BlobSource, options: CallOptions): Promise<VerifiedGroups> {
    const { digest, size } = blob;
    const outboard = await way.endpoint.outboard(digest, size, options);
    if (outboard === undefined) {
      throw new CastoreError("INCOMPLETE", `outboard of blob ${digest}: absent`);
    }
    const groups = new VerifiedGroups(digest, size, outboard);
    this.#groups.set(digest, groups);
    return groups;
  }
}

function coveringChunks(
  { blob }: BlobSource,
  { from, to }: { readonly from: number; readonly to: number },
): PlacedChunk[] {
  const placed: PlacedChunk[] = [];
  let start = 0;
  for (const [index, chunk] of blob.chunks.entries()) {
    if (start >= to) break;
    if (start + chunk.size > from) placed.push({ chunk, index, start });
    start += chunk.size;
  }
  return placed;
}
