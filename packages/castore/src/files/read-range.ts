import { readSync } from "node:fs";

/** Bytes [start, end) of a file, which go to `at` of a buffer. */
interface FileRange {
  readonly start: number;
  readonly end: number;
  readonly at: number;
}

/** Reads a range in this thread. Returns how many bytes of it are there: fewer at the end. */
export function readRange(
  descriptor: number,
  { start, end, at }: FileRange,
  target: Uint8Array,
): number {
  let position = start;
  while (position < end) {
    const count = readSync(descriptor, target, at + position - start, end - position, position);
    if (count === 0) break;
    position += count;
  }
  return position - start;
}
