import { CastoreError } from "../castore-error.ts";

/** Blobs up to this size lie in their row, larger ones in a file. Also EROFS's inline limit. */
export const INLINE_BYTES_MAX = 4096;

const INLINE = 0;
const FILE = 1;
const FILE_ROW_BYTES = 7;

export type BlobRow =
  | { readonly inline: Uint8Array; readonly size: number }
  | { readonly inline?: undefined; readonly size: number };

export function encodeInlineBlob(bytes: Uint8Array): Uint8Array {
  const row = new Uint8Array(1 + bytes.byteLength);
  row[0] = INLINE;
  row.set(bytes, 1);
  return row;
}

export function encodeFileBlob(size: number): Uint8Array {
  const row = Buffer.alloc(FILE_ROW_BYTES);
  row[0] = FILE;
  row.writeUIntLE(size, 1, 6);
  return row;
}

/** Decodes a row of `blobs`; inline bytes are copied. Rejects CORRUPT. */
export function decodeBlobRow(row: Uint8Array, name: string): BlobRow {
  if (row[0] === INLINE && row.byteLength <= 1 + INLINE_BYTES_MAX) {
    const inline = Uint8Array.prototype.slice.call(row, 1);
    return { inline, size: inline.byteLength };
  }
  if (row[0] !== FILE || row.byteLength !== FILE_ROW_BYTES) {
    throw new CastoreError("CORRUPT", `blob ${name}: its row cannot be read`);
  }
  return { size: Buffer.from(row.buffer, row.byteOffset, row.byteLength).readUIntLE(1, 6) };
}
