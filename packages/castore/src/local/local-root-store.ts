import { CastoreError } from "../castore-error.ts";
import { digestBytes } from "../model/digest.ts";
import type { Node } from "../model/node.ts";
import { decodeNode, encodeNode } from "../model/node-codec.ts";
import { WireReader } from "../model/wire-reader.ts";
import { varintLength, WireWriter } from "../model/wire-writer.ts";
import type { RootRecord, RootStore } from "../services/root-store.ts";
import type { OpenStore } from "./open-store.ts";
import { sealRow, unsealRow } from "./row-checksum.ts";
import { visitRows } from "./store-index.ts";
import type { RootRow } from "./store-writes.ts";

/** Most characters in the key of a root. */
export const ROOT_KEY_LENGTH_MAX = 200;

/** Rows that `list` reads at once: a read never holds a snapshot while its caller works. */
const LIST_ROWS = 256;
/** Touches that are kept in memory until they are written down. */
const TOUCHES_MAX = 1024;
/** How late another process, or a store after a crash, may learn of a touch. */
const TOUCH_DELAY_MS = 5000;

/** The root records of `store`. */
export class LocalRootStore implements RootStore {
  readonly #store: OpenStore;
  /** Keys in order of last use: a Map keeps the order of insertion. */
  readonly #touched = new Set<string>();
  #writing: Promise<unknown> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(store: OpenStore) {
    this.#store = store;
  }

  async get(
    key: string,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<RootRecord | undefined> {
    signal?.throwIfAborted();
    const row = this.#store.index.rows.roots.getBinary(rootKey(key));
    return row === undefined ? undefined : decodeRoot(key, row);
  }

  async put(
    records: readonly RootRecord[],
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    this.#store.checkWritable();
    signal?.throwIfAborted();
    if (records.length === 0) return;
    for (const { key } of records) this.#touched.delete(key);
    await this.#store.write({ type: "roots", records: records.map(encodeRoot) });
  }

  touch(key: string): void {
    if (this.#store.readOnly) return;
    this.#touched.delete(key);
    this.#touched.add(key);
    if (this.#touched.size >= TOUCHES_MAX) this.#writing = this.writeTouches().catch(() => {});
    else {
      this.#timer ??= setTimeout(() => {
        this.#writing = this.writeTouches().catch(() => {});
      }, TOUCH_DELAY_MS).unref();
    }
  }

  /** Writes down what was touched. */
  async writeTouches(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#touched.size === 0) return;
    const keys = [...this.#touched].map(rootKey);
    this.#touched.clear();
    await this.#store.write({ type: "touch", keys });
  }

  async delete(
    key: string,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<boolean> {
    this.#store.checkWritable();
    signal?.throwIfAborted();
    this.#touched.delete(key);
    return this.#store.write({ type: "delete-root", key: rootKey(key) });
  }

  async *list({
    signal,
  }: {
    readonly signal?: AbortSignal | undefined;
  } = {}): AsyncGenerator<RootRecord, void, undefined> {
    let start: Uint8Array | undefined;
    while (true) {
      signal?.throwIfAborted();
      const page: RootRecord[] = [];
      visitRows(this.#store.index.rows.roots, { start }, (key, row) => {
        const name = Buffer.from(key).toString("latin1");
        page.push(decodeRoot(name, Uint8Array.prototype.slice.call(row)));
        return page.length < LIST_ROWS;
      });
      for (const record of page) {
        yield record;
        signal?.throwIfAborted();
      }
      const last = page.at(-1);
      if (last === undefined || page.length < LIST_ROWS) return;
      start = Buffer.from(`${last.key}\0`, "latin1");
    }
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.writeTouches();
  }
}

/** Rejects INVALID for a key that is not 1..200 ASCII characters. */
export function rootKey(key: string): Buffer {
  if (key.length > ROOT_KEY_LENGTH_MAX || !/^[\x20-\x7e]+$/.test(key)) {
    const text = JSON.stringify(key.slice(0, 64));
    throw new CastoreError("INVALID", `root key ${text}: want 1..200 printable ASCII characters`);
  }
  return Buffer.from(key, "latin1");
}

function encodeRoot({ key, node, references, payload }: RootRecord): RootRow {
  const encoded = encodeNode(node);
  let length = varintLength(encoded.byteLength) + encoded.byteLength;
  length += varintLength(references.length) + payload.byteLength;
  for (const reference of references) {
    rootKey(reference);
    length += varintLength(reference.length) + reference.length;
  }
  const writer = new WireWriter(length + varintLength(payload.byteLength));
  writer.bytes(encoded);
  writer.varint(references.length);
  for (const reference of references) writer.latin1(reference);
  writer.bytes(payload);
  const needs = neededRow(node);
  return {
    key: rootKey(key),
    row: sealRow(writer.buffer),
    ...(needs === undefined ? {} : { needs }),
  };
}

function neededRow(node: Node): RootRow["needs"] {
  if (node.type === "symlink") return undefined;
  const rows = node.type === "file" ? "blobs" : "directories";
  return { rows, digest: digestBytes(node.digest) };
}

/** The record in a row of `roots`; its payload is a view of `row`. */
export function decodeRoot(key: string, row: Uint8Array): RootRecord {
  try {
    const reader = new WireReader(unsealRow(row), `root ${key}`);
    const node = decodeNode(reader.bytes());
    const count = reader.varint();
    const references: string[] = [];
    for (let i = 0; i < count; i++) {
      references.push(Buffer.from(reader.bytes()).toString("latin1"));
    }
    return { key, node, references, payload: reader.bytes() };
  } catch (cause) {
    throw new CastoreError("CORRUPT", `root ${key}: its row cannot be read`, { cause });
  }
}
