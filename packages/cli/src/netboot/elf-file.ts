import { CastoreError } from "@castore/castore";

/** Offsets in the header of a 64-bit little-endian ELF file, and in one of its program headers. */
const HEADER_BYTES = 64;
const PROGRAM_OFFSET = 32;
const SECTION_OFFSET = 40;
const PROGRAM_SIZE = 54;
const PROGRAM_COUNT = 56;
const SECTION_FIELDS = [58, 60, 62];
const SEGMENT_OFFSET = 8;
const SEGMENT_SIZE = 32;

/** The type of the program header that names a dynamic loader. */
const INTERPRETER = 3;

/** Whether `bytes` are a program that needs no loader and no library. Rejects as `stripElf`. */
export function isStaticElf(bytes: Buffer, name: string): boolean {
  return !programHeaders(bytes, name).some((at) => bytes.readUInt32LE(at) === INTERPRETER);
}

/**
 * What of a program or shared object is loaded: without its symbols and debug information, which
 * lie behind the last segment. Rejects INVALID where `bytes` are no 64-bit little-endian ELF file.
 */
export function stripElf(bytes: Buffer, name: string): Buffer {
  let end = 0;
  for (const at of programHeaders(bytes, name)) {
    const offset = Number(bytes.readBigUInt64LE(at + SEGMENT_OFFSET));
    end = Math.max(end, offset + Number(bytes.readBigUInt64LE(at + SEGMENT_SIZE)));
  }
  if (end > bytes.length) throw new CastoreError("INVALID", `${name}: is cut`);
  const kept = Buffer.from(bytes.subarray(0, end));
  kept.writeBigUInt64LE(0n, SECTION_OFFSET);
  for (const field of SECTION_FIELDS) kept.writeUInt16LE(0, field);
  return kept;
}

/** Where the program headers lie. */
function programHeaders(bytes: Buffer, name: string): number[] {
  const isElf = bytes.length > HEADER_BYTES && bytes.readUInt32BE(0) === 0x7f45_4c46;
  if (!isElf || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new CastoreError("INVALID", `${name}: no 64-bit little-endian ELF file`);
  }
  const first = Number(bytes.readBigUInt64LE(PROGRAM_OFFSET));
  const size = bytes.readUInt16LE(PROGRAM_SIZE);
  const count = bytes.readUInt16LE(PROGRAM_COUNT);
  if (first + count * size > bytes.length) throw new CastoreError("INVALID", `${name}: is cut`);
  return Array.from({ length: count }, (_, index) => first + index * size);
}
