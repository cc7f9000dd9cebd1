import { crc32 } from "node:zlib";

const CHECKSUM_BYTES = 4;

/** `row` with a checksum after it: for rows whose content no digest names. */
export function sealRow(row: Uint8Array): Buffer {
  const sealed = Buffer.allocUnsafe(row.byteLength + CHECKSUM_BYTES);
  sealed.set(row);
  sealed.writeUInt32LE(crc32(row), row.byteLength);
  return sealed;
}

/** The row in what `sealRow` made, as a view. Throws where the bytes are damaged. */
export function unsealRow(sealed: Uint8Array): Buffer {
  const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
  const row = bytes.subarray(0, Math.max(0, bytes.byteLength - CHECKSUM_BYTES));
  if (bytes.byteLength < CHECKSUM_BYTES || bytes.readUInt32LE(row.byteLength) !== crc32(row)) {
    throw new Error("checksum does not match");
  }
  return row;
}
