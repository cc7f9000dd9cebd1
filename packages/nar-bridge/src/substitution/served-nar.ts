/** A NAR whose root is proven, any part of which may leave. */
export interface ServedNar {
  /** Bytes. */
  readonly size: number;
  /** Names the content: equal for equal bytes only. */
  readonly etag: string;
  stream(start: number, end: number): AsyncIterable<Uint8Array>;
}
