import type { ByteSource, CallOptions } from "../streams/byte-source.ts";
import { cancellable } from "../streams/cancellable.ts";
import { type ChunkSizes, createKernel, KERNEL_WINDOW_BYTES, type Kernel } from "./kernel.ts";

/** How castore/1 and snix cut: FastCDC v2020. */
export const CHUNK_SIZES: ChunkSizes = { min: 131_072, average: 262_144, max: 524_288 };

/** Finds where content-defined chunks end. Holds one byte of what it was given. */
export interface Chunker {
  /**
   * Takes the next bytes of the stream, which stay the caller's, and returns the offsets in the
   * stream at which further chunks end, ascending. The last chunk ends where the stream does.
   */
  push(piece: Uint8Array): readonly number[];
}

/**
 * Cuts as FastCDC v2020 does with normalization level 1: for the default sizes, exactly where snix
 * cuts. Rejects RangeError unless 64 ≤ min ≤ average ≤ max, 512 ≤ average ≤ 2 MiB, max ≤ 16 MiB.
 * 2.6 GB per CPU second and core.
 */
export function createChunker(sizes: ChunkSizes = CHUNK_SIZES): Chunker {
  return createChunkerFactory(sizes)();
}

/**
 * Makes chunkers as `createChunker` does, for any number of streams at the same time: they share
 * one kernel, of which each would otherwise cost 0.5 MB and 50 µs.
 */
export function createChunkerFactory(sizes: ChunkSizes = CHUNK_SIZES): () => Chunker {
  checkSizes(sizes);
  const kernel = createKernel(sizes);
  return () => chunkerOver(kernel);
}

function chunkerOver(kernel: Kernel): Chunker {
  const state = createCutState();
  let odd: number | undefined;
  let offset = 0;
  return {
    push(piece) {
      const ends: number[] = [];
      for (let taken = 0; taken < piece.byteLength; ) {
        const held = odd === undefined ? 0 : 1;
        if (odd !== undefined) kernel.bytes[kernel.window] = odd;
        const part = piece.subarray(taken, taken + KERNEL_WINDOW_BYTES - held);
        kernel.bytes.set(part, kernel.window + held);
        const to = kernel.window + held + part.byteLength;
        const base = offset - held - kernel.window;
        const next = cutWindow(kernel, state, kernel.window, to, (_, at) => ends.push(base + at));
        odd = next < to ? kernel.bytes[next] : undefined;
        taken += part.byteLength;
        offset += part.byteLength;
      }
      return ends;
    },
  };
}

function checkSizes({ min, average, max }: ChunkSizes): void {
  const integers = [min, average, max].every(Number.isSafeInteger);
  const ordered = 64 <= min && min <= average && average <= max && max <= 1 << 24;
  if (!integers || !ordered || average < 512 || average > 1 << 21) {
    throw new RangeError(`chunk sizes ${min}, ${average}, ${max}: out of bounds`);
  }
}

/** Where a stream stands within the chunk that is not yet complete. */
export interface CutState {
  /** Bytes of the chunk that were looked at: even. */
  position: number;
  /** The kernel's hash of them. */
  hash: bigint;
}

export function createCutState(): CutState {
  return { position: 0, hash: 0n };
}

/**
 * Cuts the bytes at [from, to) in the kernel's window, which continue `state`'s chunk, and calls
 * `onBytes(from, at)` for the bytes that complete a chunk. Returns the address up to which all was
 * looked at: `to`, or one before it.
 */
export function cutWindow(
  kernel: Kernel,
  state: CutState,
  from: number,
  to: number,
  onEnd: (from: number, at: number) => void,
): number {
  kernel.hash = state.hash;
  let start = from;
  while (start < to) {
    const at = kernel.cut(start, to, state.position);
    if (at === 0) break;
    onEnd(start, at);
    start = at;
    state.position = 0;
  }
  state.hash = kernel.hash;
  const next = to - ((state.position + to - start) & 1);
  state.position += next - start;
  return next;
}

/**
 * The content-defined chunks of `source`, in order, joined to its bytes: each whole, none empty.
 * A chunk that lies within one piece is a view of it, others are copied; they are the receiver's.
 * Memory: what was yielded by the source since the last chunk's end.
 */
export async function* chunksOf(
  source: ByteSource,
  options: CallOptions & { readonly sizes?: ChunkSizes | undefined } = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const chunker = createChunker(options.sizes);
  let pending: Uint8Array[] = [];
  let pendingStart = 0;
  let pendingEnd = 0;
  for await (const piece of cancellable(source, options.signal)) {
    if (piece.byteLength === 0) continue;
    pending.push(piece);
    pendingEnd += piece.byteLength;
    for (const end of chunker.push(piece)) {
      yield takeFront(pending, end - pendingStart);
      pendingStart = end;
    }
  }
  if (pendingEnd > pendingStart) yield takeFront(pending, pendingEnd - pendingStart);
  pending = [];
}

/** Removes the first `size` bytes from `pieces`. */
function takeFront(pieces: Uint8Array[], size: number): Uint8Array {
  const taken: Uint8Array[] = [];
  let missing = size;
  while (missing > 0) {
    const piece = pieces[0];
    if (piece === undefined) throw new RangeError(`take ${size} bytes: ${missing} too many`);
    if (piece.byteLength > missing) {
      taken.push(piece.subarray(0, missing));
      pieces[0] = piece.subarray(missing);
      missing = 0;
    } else {
      taken.push(piece);
      missing -= piece.byteLength;
      pieces.shift();
    }
  }
  const only = taken.length === 1 ? taken[0] : undefined;
  return only ?? Buffer.concat(taken, size);
}
