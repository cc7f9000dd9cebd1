/** The bytes [start, end). */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/**
 * The part of [start, end) that lies below `size`, empty where there is none; `end` defaults to
 * `size`. Throws RangeError where a bound is negative or no integer.
 */
export function clipRange(size: number, start = 0, end = size): ByteRange {
  for (const bound of [start, end]) {
    if (!Number.isSafeInteger(bound) || bound < 0) {
      throw new RangeError(`byte range [${start}, ${end}): want integers of 0 or more`);
    }
  }
  const clippedStart = Math.min(start, size);
  return { start: clippedStart, end: Math.max(clippedStart, Math.min(end, size)) };
}
