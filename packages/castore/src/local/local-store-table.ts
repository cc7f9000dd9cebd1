import { CastoreError } from "../castore-error.ts";
import { digestBytes } from "../model/digest.ts";
import type { Node } from "../model/node.ts";
import { decodeNode, encodeNode } from "../model/node-codec.ts";
import type { StoreTable, TableRow } from "../services/root-store.ts";
import type { OpenStore } from "./open-store.ts";
import { sealRow, unsealRow } from "./row-checksum.ts";
import { afterPrefix, visitRows } from "./store-index.ts";
import type { TableRowWrite } from "./store-writes.ts";

/** Most bytes in the key of a row. */
export const TABLE_KEY_BYTES_MAX = 1024;
const LIST_ROWS = 256;

/** Rejects INVALID for a name that is not 1..32 characters of a-z and "-". */
export function createLocalStoreTable(store: OpenStore, name: string): StoreTable {
  if (!/^[a-z-]{1,32}$/.test(name)) {
    const text = JSON.stringify(name.slice(0, 64));
    throw new CastoreError("INVALID", `table ${text}: want 1..32 characters of a-z and "-"`);
  }
  const prefix = Buffer.from(`${name}\0`);
  const end = afterPrefix(prefix);
  const keyOf = (key: string): Buffer => {
    const bytes = Buffer.from(key, "utf8");
    if (bytes.byteLength === 0 || bytes.byteLength > TABLE_KEY_BYTES_MAX) {
      const message = `table ${name}: a key of ${bytes.byteLength} bytes, want 1..1024`;
      throw new CastoreError("INVALID", message);
    }
    return Buffer.concat([prefix, bytes]);
  };
  return {
    get(key) {
      const row = store.index.rows.tables.getBinary(keyOf(key));
      return row === undefined ? undefined : decodeTableRow(name, row);
    },
    async put(rows) {
      store.checkWritable();
      const writes = rows.map((row) => encodeTableRow(keyOf(row.key), row));
      await store.write({ type: "rows", rows: writes });
    },
    async delete(key) {
      return store.write({ type: "delete-row", key: keyOf(key) });
    },
    async *list() {
      let start: Uint8Array = prefix;
      while (true) {
        const page: (TableRow & { readonly key: string })[] = [];
        visitRows(store.index.rows.tables, { start, end }, (key, value) => {
          const text = Buffer.from(key).subarray(prefix.byteLength).toString("utf8");
          const row = decodeTableRow(name, Uint8Array.prototype.slice.call(value));
          page.push({ key: text, ...row });
          return page.length < LIST_ROWS;
        });
        yield* page;
        const last = page.at(-1);
        if (last === undefined || page.length < LIST_ROWS) return;
        start = Buffer.concat([keyOf(last.key), Buffer.from([0])]);
      }
    },
  };
}

/** 1, the digest, or 0; then the length and bytes of the node, empty where there is none. */
function encodeTableRow(key: Uint8Array, { node, value }: TableRow): TableRowWrite {
  const encoded = node === undefined ? Buffer.alloc(0) : encodeNode(node);
  const digest = node === undefined || node.type === "symlink" ? undefined : node.digest;
  const head = digest === undefined ? Buffer.of(0) : Buffer.from(`01${digest}`, "hex");
  const length = Buffer.alloc(2);
  length.writeUInt16LE(encoded.byteLength);
  const row = sealRow(Buffer.concat([head, length, encoded, value]));
  return digest === undefined ? { key, row } : { key, row, digest: digestBytes(digest) };
}

export function decodeTableRow(name: string, row: Uint8Array): TableRow {
  try {
    const bytes = unsealRow(row);
    const at = bytes[0] === 1 ? 33 : 1;
    const length = bytes.readUInt16LE(at);
    const value = bytes.subarray(at + 2 + length);
    if (length === 0) return { value };
    const node: Node = decodeNode(bytes.subarray(at + 2, at + 2 + length));
    return { node, value };
  } catch (cause) {
    throw new CastoreError("CORRUPT", `table ${name}: a row cannot be read`, { cause });
  }
}
