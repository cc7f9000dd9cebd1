/**
 * Blobs that one thread reads without waiting, for a thread that has no event loop to wait in.
 * What it gives was verified before it was stored.
 */
export interface DirectContent {
  /**
   * Puts the bytes [start, end) of the blob whose digest these 32 bytes are into `target` at `at`;
   * false where they are not at hand in full, after which the place may hold anything.
   */
  read(digest: Buffer, range: DirectRange, target: Buffer): boolean;
  /**
   * A descriptor of a plain file that holds the blob and nothing else, good until the next call;
   * undefined where there is none.
   */
  descriptor(digest: Buffer): number | undefined;
  close(): void;
}

export interface DirectRange {
  readonly start: number;
  readonly end: number;
  /** Where in the target. */
  readonly at: number;
}

/**
 * How another thread opens a DirectContent: the module of this URL exports
 * `openDirectContent(argument)`.
 */
export interface DirectContentModule {
  readonly module: string;
  readonly argument: string;
}
