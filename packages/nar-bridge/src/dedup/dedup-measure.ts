import {
  CastoreError,
  createNormalForm,
  createNormalizer,
  type Digest,
  digestOf,
  type NormalForm,
} from "@castore/castore";
import { createNarReader, type NarReader } from "../nar/nar-reader.ts";
import { type StorePath, storePathHash } from "../nix/store-path.ts";
import type { Compressor } from "./dedup-compressor.ts";
import { DEDUP_CUTS } from "./dedup-cut.ts";
import { createFormCutterFactory, type FormCutterFactory, type PartSink } from "./dedup-form.ts";
import { type PartTable, partKeyOf } from "./dedup-part-table.ts";

/** Most distinct parts of one store path: some 15 GiB of chunks around 16 KiB. */
export const PATH_PARTS_MAX = 1 << 21;

/** Bytes of a recipe for a blob that it lists, for each chunk of it, and for each occurrence. */
const LISTED_BLOB_BYTES = 46;
const LISTED_CHUNK_BYTES = 38;
const OCCURRENCE_BYTES = 4;
/** Bytes of a directory message for an entry, beside its name and target. */
const NODE_BYTES = 44;
const SYMLINK_BYTES = 8;

/** What one NAR tells about deduplication. */
export interface PathMeasure {
  readonly narBytes: number;
  readonly files: number;
  /** Contents of all files; the rest of the NAR is framing. */
  readonly fileBytes: number;
  /** How often a reference stands in a file. */
  readonly occurrences: number;
  /** For each cut, what a client must be told beside the parts: directories and recipes. */
  readonly metadataBytes: readonly number[];
  /** The distinct parts of all cuts: numbers in the part table. */
  readonly parts: Uint32Array;
  /** For each of them, the cuts that it belongs to. */
  readonly masks: Uint8Array;
}

export interface PathMeasurerOptions {
  /** Shared by all paths of a run. Parts that it knows are not compressed again. */
  readonly table: PartTable;
  readonly compressor: Compressor;
}

export interface MeasuredPath {
  readonly storePath: StorePath;
  readonly references: readonly StorePath[];
}

/** Measures any number of NARs, also several at once. */
export interface PathMeasurer {
  start(path: MeasuredPath): PathMeasurement;
}

/** One NAR on its way. */
export interface PathMeasurement {
  /** Takes the next bytes, which stay the caller's. Throws as a NarReader, or EXHAUSTED. */
  write(piece: Uint8Array): void;
  /** Ends the NAR. Resolves once all its parts were compressed. */
  finish(): Promise<PathMeasure>;
}

export function createPathMeasurer(options: PathMeasurerOptions): PathMeasurer {
  const raw = createFormCutterFactory("raw");
  const normal = createFormCutterFactory("normal");
  return { start: (path) => new Measurement(path, options, { raw, normal }) };
}

class Measurement implements PathMeasurement, PartSink {
  readonly #options: PathMeasurerOptions;
  readonly #forms: { readonly raw: FormCutterFactory; readonly normal: FormCutterFactory };
  readonly #normalForm: NormalForm;
  readonly #reader: NarReader;
  /** The parts so far, with the cuts that they belong to. */
  readonly #masks = new Map<number, number>();
  readonly #framed = new Map<number, readonly number[]>();
  readonly #recipeBytes = DEDUP_CUTS.map(() => 0);
  #directoryBytes = 0;
  #files = 0;
  #fileBytes = 0;
  #occurrences = 0;

  constructor(
    { storePath, references }: MeasuredPath,
    options: PathMeasurerOptions,
    forms: { readonly raw: FormCutterFactory; readonly normal: FormCutterFactory },
  ) {
    this.#options = options;
    this.#forms = forms;
    const hashes = new Set([storePath, ...references].map(storePathHash));
    this.#normalForm = createNormalForm([...hashes].sort());
    this.#reader = this.#createReader();
  }

  write(piece: Uint8Array): void {
    this.#reader.write(piece);
  }

  async finish(): Promise<PathMeasure> {
    this.#reader.end();
    const { compressor, table } = this.#options;
    await compressor.settled();
    for (const [part, frames] of this.#framed) {
      const sums = new Float64Array(table.levelCount);
      for (const frame of frames) {
        for (const [i, size] of table.packedSizesOf(frame).entries()) {
          sums[i] = (sums[i] ?? 0) + size;
        }
      }
      table.setPackedSizes(part, sums);
    }
    return {
      narBytes: this.#reader.offset,
      files: this.#files,
      fileBytes: this.#fileBytes,
      occurrences: this.#occurrences,
      metadataBytes: this.#recipeBytes.map((bytes) => bytes + this.#directoryBytes),
      parts: Uint32Array.from(this.#masks.keys()),
      masks: Uint8Array.from(this.#masks.values()),
    };
  }

  partOf(bytes: Uint8Array): number {
    const { table, compressor } = this.#options;
    const key = partKeyOf(digestOf(bytes));
    const known = table.find(key);
    if (known !== undefined) return known;
    const part = table.add(key, bytes.byteLength);
    compressor.submit(bytes, (sizes) => table.setPackedSizes(part, sizes));
    return part;
  }

  framedPart(digest: Digest, size: number, frames: readonly number[]): number {
    const key = partKeyOf(digest);
    const part = this.#options.table.find(key) ?? this.#options.table.add(key, size);
    this.#framed.set(part, frames);
    return part;
  }

  mark(part: number, mask: number): void {
    this.#masks.set(part, (this.#masks.get(part) ?? 0) | mask);
    if (this.#masks.size > PATH_PARTS_MAX) {
      throw new CastoreError("EXHAUSTED", `more than ${PATH_PARTS_MAX} distinct parts`);
    }
  }

  #createReader(): NarReader {
    let file: { push(bytes: Uint8Array): void; finish(): void } | undefined;
    const enter = (name: string | undefined, bytes: number) => {
      if (name !== undefined) this.#directoryBytes += name.length + bytes;
    };
    return createNarReader({
      openDirectory: (name) => enter(name, NODE_BYTES),
      closeDirectory: () => {},
      openFile: (name, { size }) => {
        enter(name, NODE_BYTES);
        file = this.#openFile(size);
      },
      contents: (bytes) => file?.push(bytes),
      closeFile: () => file?.finish(),
      symlink: (name, target) => enter(name, target.length + SYMLINK_BYTES),
    });
  }

  #openFile(size: number) {
    this.#files++;
    this.#fileBytes += size;
    const raw = this.#forms.raw(size, this);
    const normal = this.#forms.normal(size, this);
    const normalizer = createNormalizer(this.#normalForm, (bytes) => normal.push(bytes));
    return {
      push: (bytes: Uint8Array) => {
        raw.push(bytes);
        normalizer.push(bytes);
      },
      finish: () => {
        normalizer.finish();
        const occurrences = normalizer.occurrences.length;
        this.#occurrences += occurrences;
        for (const [cut, chunks] of raw.finish()) this.#list(cut, chunks, 0);
        for (const [cut, chunks] of normal.finish()) this.#list(cut, chunks, occurrences);
      },
    };
  }

  /** A recipe leaves out what a directory tells: a file of one chunk without references. */
  #list(cut: number, chunks: number, occurrences: number): void {
    if (chunks === 1 && occurrences === 0) return;
    const bytes = LISTED_BLOB_BYTES + chunks * LISTED_CHUNK_BYTES + occurrences * OCCURRENCE_BYTES;
    this.#recipeBytes[cut] = (this.#recipeBytes[cut] ?? 0) + bytes;
  }
}
