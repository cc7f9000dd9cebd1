import { CastoreError } from "../castore-error.ts";
import { CHUNK_SIZES } from "../chunking/chunker.ts";
import {
  createKernel,
  KERNEL_WINDOW_BYTES,
  type Kernel,
  REFERENCE_LENGTH,
} from "../chunking/kernel.ts";

export { REFERENCE_LENGTH } from "../chunking/kernel.ts";

/** Most references that one normal form replaces. */
export const REFERENCES_MAX = 1 << 16;
/** Only so many occurrences in one blob are replaced: the first. */
export const OCCURRENCES_MAX = 1 << 16;

/** A place in a blob where a reference stands. */
export interface Occurrence {
  /** Of its first byte, in the blob. */
  readonly offset: number;
  /** Index of the reference. */
  readonly reference: number;
}

/**
 * A set of references: 32-character hash parts of store paths. In the normal form of a blob each
 * occurrence is replaced by 32 × "e" (docs/format.md, Normal form). One may serve any number of
 * blobs, also at the same time.
 */
export interface NormalForm {
  readonly references: readonly string[];
  readonly kernel: Kernel;
}

/**
 * Rejects INVALID unless `references` are distinct and 32 characters of nixbase32 each, EXHAUSTED
 * for more than REFERENCES_MAX of them.
 */
export function createNormalForm(references: readonly string[]): NormalForm {
  if (references.length > REFERENCES_MAX) {
    throw new CastoreError("EXHAUSTED", `${references.length} references: over ${REFERENCES_MAX}`);
  }
  const seen = new Set<string>();
  for (const reference of references) {
    checkReference(reference);
    if (seen.has(reference)) throw new CastoreError("INVALID", `reference ${reference}: twice`);
    seen.add(reference);
  }
  const own = [...references];
  let kernel: Kernel | undefined;
  return {
    references: own,
    get kernel() {
      kernel ??= createKernel(CHUNK_SIZES, own);
      return kernel;
    },
  };
}

/** Rejects INVALID unless `reference` is 32 characters of nixbase32. */
export function checkReference(reference: string): void {
  if (!/^[0-9a-df-np-sv-z]{32}$/.test(reference)) {
    const text = JSON.stringify(reference.slice(0, 64));
    throw new CastoreError("INVALID", `reference ${text}: want 32 characters of nixbase32`);
  }
}

/** Turns one blob into its normal form. */
export interface Normalizer {
  /**
   * Takes the blob's next bytes, which stay the caller's, and gives on the next bytes of the normal
   * form: up to 31 bytes less than was given so far.
   */
  push(piece: Uint8Array): void;
  /** Gives on the last bytes of the normal form. */
  finish(): void;
  /** What was replaced so far, in ascending order of offset. */
  readonly occurrences: readonly Occurrence[];
}

/**
 * The bytes that `onBytes` is called with are its own until it returns. 5 GB per CPU second on
 * binaries and prose, 0.9 on hex digits; 0.3 on text without any "e".
 */
export function createNormalizer(
  { kernel, references }: NormalForm,
  onBytes: (bytes: Uint8Array) => void,
): Normalizer {
  const occurrences: Occurrence[] = [];
  const tail = new Uint8Array(REFERENCE_LENGTH);
  let tailBytes = 0;
  let offset = 0;
  const window = (part: Uint8Array): void => {
    kernel.bytes.set(tail.subarray(0, tailBytes), kernel.window);
    kernel.bytes.set(part, kernel.window + tailBytes);
    const to = kernel.window + tailBytes + part.byteLength;
    const decided = normalizeWindow(kernel, references, to, offset, occurrences);
    tailBytes = to - decided;
    tail.set(kernel.bytes.subarray(decided, to));
    offset += decided - kernel.window;
    onBytes(kernel.bytes.subarray(kernel.window, decided));
  };
  return {
    occurrences,
    push(piece) {
      const room = KERNEL_WINDOW_BYTES - REFERENCE_LENGTH;
      for (let taken = 0; taken < piece.byteLength; taken += room) {
        window(piece.subarray(taken, taken + room));
      }
    },
    finish() {
      onBytes(tail.subarray(0, tailBytes));
      offset += tailBytes;
      tailBytes = 0;
    },
  };
}

/**
 * Replaces references in the kernel's window up to the address `to`, adding them to `occurrences`.
 * The window's first byte is the blob's at `offset`. Returns the address up to which all is
 * decided.
 */
export function normalizeWindow(
  kernel: Kernel,
  references: readonly string[],
  to: number,
  offset: number,
  occurrences: Occurrence[],
): number {
  if (references.length === 0 || occurrences.length === OCCURRENCES_MAX) return to;
  const decided = kernel.scan(kernel.window, to);
  for (const { at, index } of kernel.found()) {
    if (occurrences.length < OCCURRENCES_MAX) {
      occurrences.push({ offset: offset + at - kernel.window, reference: index });
    } else {
      kernel.bytes.set(Buffer.from(references[index] ?? "", "latin1"), at);
    }
  }
  return occurrences.length === OCCURRENCES_MAX ? to : decided;
}

/**
 * Puts `references` back into part of a normal form, in place: `bytes` are the blob's from `start`
 * on, and may begin or end in the middle of an occurrence. `occurrences` ascend; those outside are
 * passed over.
 */
export function denormalize(
  bytes: Uint8Array,
  start: number,
  occurrences: readonly Occurrence[],
  references: readonly string[],
): void {
  for (let i = firstEndingAfter(occurrences, start); i < occurrences.length; i++) {
    const occurrence = occurrences[i];
    if (occurrence === undefined || occurrence.offset >= start + bytes.byteLength) return;
    const reference = references[occurrence.reference];
    if (reference === undefined) {
      throw new CastoreError("INVALID", `occurrence of reference ${occurrence.reference}: no such`);
    }
    const at = occurrence.offset - start;
    const stop = Math.min(at + REFERENCE_LENGTH, bytes.byteLength);
    for (let p = Math.max(at, 0); p < stop; p++) bytes[p] = reference.charCodeAt(p - at);
  }
}

/** The reverse of `denormalize`: overwrites known occurrences with "e", in place. */
export function normalizeAt(
  bytes: Uint8Array,
  start: number,
  occurrences: readonly Occurrence[],
): void {
  for (let i = firstEndingAfter(occurrences, start); i < occurrences.length; i++) {
    const at = (occurrences[i]?.offset ?? 0) - start;
    if (at >= bytes.byteLength) return;
    bytes.fill(0x65, Math.max(at, 0), at + REFERENCE_LENGTH);
  }
}

/** Index of the first occurrence that reaches beyond `start`. */
function firstEndingAfter(occurrences: readonly Occurrence[], start: number): number {
  let low = 0;
  let high = occurrences.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const offset = occurrences[middle]?.offset ?? 0;
    if (offset + REFERENCE_LENGTH <= start) low = middle + 1;
    else high = middle;
  }
  return low;
}
