import {
  type Chunker,
  type ChunkSizes,
  createChunkerFactory,
  createDigestHasher,
  type Digest,
} from "@castore/castore";
import { DEDUP_CUTS } from "./dedup-cut.ts";

/** Files are compressed in frames of so much: more would gain little, and take as much memory. */
export const FILE_FRAME_BYTES = 8 << 20;

/** Bytes given to a chunker at once. */
const SLICE_BYTES = 1 << 16;

/** Where the parts of files go. */
export interface PartSink {
  /** The number of the part of these bytes, which stay the caller's. */
  partOf(bytes: Uint8Array): number;
  /** The number of a part too large for one frame, and of the parts that are its frames. */
  framedPart(digest: Digest, size: number, frames: readonly number[]): number;
  /** Notes that the part belongs to the cuts of `mask`. */
  mark(part: number, mask: number): void;
}

/** Cuts one form of one file in every way at once. */
export interface FormCutter {
  /** Takes the next bytes of the form; they stay the caller's. */
  push(bytes: Uint8Array): void;
  /** Into how many parts each cut has cut the file: [cut, count]. */
  finish(): (readonly [number, number])[];
}

/** Makes cutters for files of `size` bytes; they share what chunking needs. */
export type FormCutterFactory = (size: number, sink: PartSink) => FormCutter;

export function createFormCutterFactory(form: "raw" | "normal"): FormCutterFactory {
  const cuts = [...DEDUP_CUTS.entries()]
    .filter(([, { isNormal }]) => isNormal === (form === "normal"))
    .map(([cut, { sizes }]) => ({
      cut,
      chunks: sizes && { sizes, create: createChunkerFactory(sizes) },
    }));
  return (size, sink) => {
    const whole = createWholeFile(size, sink);
    const chunked: { readonly cut: number; readonly chunks: CutStream }[] = [];
    // A file that is too small to be cut is one part of every cut.
    const uncut: number[] = [];
    for (const { cut, chunks } of cuts) {
      if (chunks === undefined || size <= chunks.sizes.min) uncut.push(cut);
      else chunked.push({ cut, chunks: createChunks(chunks, size, { sink, mask: 1 << cut }) });
    }
    return {
      push(bytes) {
        whole.push(bytes);
        for (const { chunks } of chunked) chunks.push(bytes);
      },
      finish() {
        const part = whole.finish();
        if (part === undefined) return [];
        sink.mark(
          part,
          uncut.reduce((mask, cut) => mask | (1 << cut), 0),
        );
        return [
          ...uncut.map((cut) => [cut, 1] as const),
          ...chunked.map(({ cut, chunks }) => [cut, chunks.finish()] as const),
        ];
      },
    };
  };
}

interface CutStream {
  push(bytes: Uint8Array): void;
  /** How many parts there were. */
  finish(): number;
}

function createChunks(
  chunks: { readonly sizes: ChunkSizes; readonly create: () => Chunker },
  fileSize: number,
  { sink, mask }: { readonly sink: PartSink; readonly mask: number },
): CutStream {
  const chunker = chunks.create();
  const held = Buffer.allocUnsafe(Math.min(fileSize, chunks.sizes.max + SLICE_BYTES));
  let heldBytes = 0;
  let chunkStart = 0;
  let count = 0;
  const add = (bytes: Uint8Array) => {
    sink.mark(sink.partOf(bytes), mask);
    count++;
  };
  return {
    push(bytes) {
      for (let taken = 0; taken < bytes.byteLength; taken += SLICE_BYTES) {
        const slice = bytes.subarray(taken, taken + SLICE_BYTES);
        held.set(slice, heldBytes);
        heldBytes += slice.byteLength;
        let from = 0;
        for (const end of chunker.push(slice)) {
          const at = end - chunkStart;
          add(held.subarray(from, from + at));
          from += at;
          chunkStart = end;
        }
        held.copyWithin(0, from, heldBytes);
        heldBytes -= from;
      }
    },
    finish() {
      if (heldBytes > 0) add(held.subarray(0, heldBytes));
      return count;
    },
  };
}

function createWholeFile(size: number, sink: PartSink) {
  const frame = Buffer.allocUnsafe(Math.min(size, FILE_FRAME_BYTES));
  const frames: number[] = [];
  const hasher = size > FILE_FRAME_BYTES ? createDigestHasher() : undefined;
  let filled = 0;
  return {
    push(bytes: Uint8Array): void {
      for (let taken = 0; taken < bytes.byteLength; ) {
        const piece = bytes.subarray(taken, taken + frame.byteLength - filled);
        frame.set(piece, filled);
        filled += piece.byteLength;
        taken += piece.byteLength;
        if (filled < frame.byteLength) continue;
        hasher?.update(frame);
        frames.push(sink.partOf(frame));
        filled = 0;
      }
    },
    /** The part that the file is; undefined for an empty file. */
    finish(): number | undefined {
      if (hasher === undefined) return frames[0];
      if (filled > 0) {
        const last = frame.subarray(0, filled);
        hasher.update(last);
        frames.push(sink.partOf(last));
      }
      return sink.framedPart(hasher.digest(), size, frames);
    },
  };
}
