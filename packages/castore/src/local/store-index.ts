import { statfsSync } from "node:fs";
import type { Database, RootDatabase } from "lmdb";
import { CastoreError } from "../castore-error.ts";
import { lmdb } from "./lazy-lmdb.ts";
import { storeError } from "./store-error.ts";

type Table = Database<Uint8Array, Uint8Array>;

/**
 * Rows of bytes under keys of bytes, in bytewise order of key, as lmdb has them. Every fault is a
 * CastoreError. Writes are part of a transaction.
 */
export interface Rows {
  doesExist(key: Uint8Array): boolean;
  getBinary(key: Uint8Array): Buffer | undefined;
  /** Valid until the next read. */
  getBinaryFast(key: Uint8Array): Buffer | undefined;
  getCount(): number;
  getKeys(range?: RowRange): Iterable<Uint8Array>;
  getKeysCount(): number;
  getRange(range: RowRange): Iterable<{ readonly key: Uint8Array; readonly value: Uint8Array }>;
  putSync(key: Uint8Array, value: Uint8Array): void;
  removeSync(key: Uint8Array): boolean;
}

interface RowRange {
  readonly start?: Uint8Array;
  readonly end?: Uint8Array;
}

const ROW_METHODS: readonly (keyof Rows & keyof Table)[] = [
  "doesExist",
  "getBinary",
  "getBinaryFast",
  "getCount",
  "getKeys",
  "getKeysCount",
  "getRange",
  "putSync",
  "removeSync",
];

const ROW_NAMES = [
  "blobs",
  "directories",
  "roots",
  "used",
  "tables",
  "nodes",
  "chunks",
  "blob-chunks",
  "condemned",
  "seen",
  "unlinks",
  "leases",
  "pins",
  "root-log",
  "seeds",
  "seed-files",
  "meta",
] as const;

export type RowsName = (typeof ROW_NAMES)[number];

const ROOM_BYTES = 1 << 18;

/** Address space for the map: what the file takes grows with what is written. */
const MAP_BYTES = 2 ** 40;

/**
 * The LMDB part of a store (docs/local-store.md, Rows). A commit is durable before anyone sees it:
 * every transaction syncs (no overlapping sync), so what can be read survives a crash.
 */
export interface StoreIndex {
  readonly rows: Readonly<Record<RowsName, Rows>>;
  /**
   * Runs `action` alone among all processes; all its writes happen, or none where it throws.
   * Rejects EXHAUSTED, before it does anything, where the disk has less than `roomBytes` left:
   * lmdb corrupts the process's memory when a write of its own meets a full disk.
   */
  transaction<T>(action: () => T, roomBytes?: number): T;
  /** Lets reads see what other threads and processes have committed. */
  refresh(): void;
  close(): Promise<void>;
}

export interface StoreIndexOptions {
  readonly readOnly?: boolean;
  /** Free bytes that a transaction wants to see unless it says otherwise: few rows need 256 KiB. */
  readonly roomBytes?: number;
}

export function openStoreIndex(path: string, options: StoreIndexOptions): StoreIndex {
  const { readOnly = false, roomBytes: usualRoomBytes = ROOM_BYTES } = options;
  const encoding = { keyEncoding: "binary", encoding: "binary" } as const;
  let env: RootDatabase<Uint8Array, Uint8Array> | undefined;
  try {
    env = lmdb().open<Uint8Array, Uint8Array>({
      path,
      readOnly,
      maxDbs: 32,
      maxReaders: 1024,
      mapSize: MAP_BYTES,
      overlappingSync: false,
      ...encoding,
    });
    const root = env;
    const openAll = () =>
      eachTable((name) => {
        const table = root.openDB<Uint8Array, Uint8Array>({ name, ...encoding });
        return guardRows(table, `index ${path}: ${name}`);
      });
    return {
      rows: readOnly ? openAll() : root.transactionSync(openAll),
      transaction(action, roomBytes = usualRoomBytes) {
        checkRoom(path, roomBytes);
        try {
          return root.transactionSync(action);
        } catch (cause) {
          throw isIndexFault(cause) ? storeError(`index ${path}`, cause) : cause;
        }
      },
      refresh: () => root.resetReadTxn(),
      close: () => root.close(),
    };
  } catch (cause) {
    env?.close().catch(() => {});
    throw storeError(`index ${path}`, cause);
  }
}

export function eachTable(rowsOf: (name: RowsName) => Rows): StoreIndex["rows"] {
  const entries = ROW_NAMES.map((name) => [name, rowsOf(name)] as const);
  return Object.fromEntries(entries) as Record<RowsName, Rows>;
}

/** lmdb's own faults have numbers, or are said of pages; others are those of what was run. */
function isIndexFault(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && typeof cause.code === "number";
}

/** `table`, whose faults name `what`: pages have no checksums, so any call may meet one. */
function guardRows(table: Table, what: string): Rows {
  const guarded: Partial<Record<keyof Rows, unknown>> = {};
  for (const name of ROW_METHODS) {
    const method: unknown = table[name];
    // What is open for reading has none that write.
    if (typeof method !== "function") continue;
    guarded[name] = (...args: unknown[]): unknown => {
      try {
        return method.apply(table, args);
      } catch (cause) {
        throw storeError(what, cause);
      }
    };
  }
  return guarded as Rows;
}

function checkRoom(path: string, roomBytes: number): void {
  const { bavail, bsize } = statfsSync(path);
  const free = bavail * bsize;
  if (free >= roomBytes) return;
  const message = `index ${path}: the disk has ${free} bytes left, ${roomBytes} are wanted`;
  throw new CastoreError("EXHAUSTED", message);
}

/** The row under `key`, valid until the next read; undefined where there is none. */
export function peekRow(rows: Rows, key: Uint8Array): Buffer | undefined {
  const row = rows.getBinaryFast(key);
  // lmdb sets the length of one reused buffer, but cannot set its byteLength.
  return row === undefined ? undefined : Buffer.from(row.buffer, row.byteOffset, row.length);
}

/**
 * Calls `visit` with the rows from `start` up to before `end`, in order of key, until it returns
 * false. What it is given is valid only during the call.
 */
export function visitRows(
  rows: Rows,
  range: { readonly start?: Uint8Array | undefined; readonly end?: Uint8Array | undefined },
  visit: (key: Buffer, value: Buffer) => boolean,
): void {
  const options = {
    ...(range.start === undefined ? {} : { start: range.start }),
    ...(range.end === undefined ? {} : { end: range.end }),
  };
  const found = rows.getRange(options)[Symbol.iterator]();
  for (let next = nextOf(found); next.done !== true; next = nextOf(found)) {
    const { key, value } = next.value;
    const row = Buffer.from(value.buffer, value.byteOffset, value.length);
    if (visit(Buffer.from(key), row)) continue;
    found.return?.();
    return;
  }
}

function nextOf<T>(found: Iterator<T>): IteratorResult<T> {
  try {
    return found.next();
  } catch (cause) {
    throw storeError("index", cause);
  }
}

/** The first key after all that begin with `prefix`, which is not all 0xff. */
export function afterPrefix(prefix: Uint8Array): Buffer {
  const end = Buffer.from(prefix);
  for (let i = end.length - 1; i >= 0; i--) {
    const byte = end[i] ?? 0;
    if (byte < 0xff) {
      end[i] = byte + 1;
      return end.subarray(0, i + 1);
    }
  }
  throw new RangeError("no key comes after a prefix of 0xff");
}
