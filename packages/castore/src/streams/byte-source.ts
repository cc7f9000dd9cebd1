/** What a call that may wait accepts. */
export interface CallOptions {
  /** Ends the call with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** Bytes on their way: each piece belongs to the receiver once it was yielded. */
export type ByteSource = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;
