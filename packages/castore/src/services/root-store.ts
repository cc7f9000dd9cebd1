import type { Node } from "../model/node.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** A root node under a key, with what its owner needs to know of it. castore reads no payload. */
export interface RootRecord {
  /** 1..200 ASCII characters; for a store path, its 32-character hash part. */
  readonly key: string;
  readonly node: Node;
  /** Keys of other records that this one needs; they live as long as it does. May hold `key`. */
  readonly references: readonly string[];
  readonly payload: Uint8Array;
}

/**
 * Root nodes by key: what garbage collection starts from and what least-recently-used eviction
 * removes, whole closures at a time. Everything may be called concurrently, by several processes.
 */
export interface RootStore {
  get(key: string, options?: CallOptions): Promise<RootRecord | undefined>;
  /**
   * Stores the records, all or none; durable when resolved. Replaces records of the same key.
   * Rejects INCOMPLETE where a node's directory or blob is not in the store.
   */
  put(records: readonly RootRecord[], options?: CallOptions): Promise<void>;
  /** Notes that the record was used now. Cheap; need not survive a crash. */
  touch(key: string): void;
  delete(key: string, options?: CallOptions): Promise<boolean>;
  /** All records, in order of key. */
  list(options?: CallOptions): AsyncIterable<RootRecord>;
}

/**
 * A small durable table of the store's, keyed by strings. A row may name a node: it then vanishes
 * when garbage collection removes that node (a row keeps nothing alive).
 */
export interface StoreTable {
  get(key: string): TableRow | undefined;
  /** Durable when resolved. All rows or none. */
  put(rows: readonly (TableRow & { readonly key: string })[]): Promise<void>;
  delete(key: string): Promise<boolean>;
  list(): AsyncIterable<TableRow & { readonly key: string }>;
}

export interface TableRow {
  readonly node?: Node | undefined;
  readonly value: Uint8Array;
}
