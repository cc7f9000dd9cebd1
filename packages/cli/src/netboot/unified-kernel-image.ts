import { CastoreError } from "@castore/castore";

/** What one file holds that UEFI firmware starts: and that one signature covers. */
export interface UnifiedKernelParts {
  /** systemd's linuxx64.efi.stub, or another that reads these sections. */
  readonly stub: Buffer;
  readonly kernel: Uint8Array;
  readonly initrd: Uint8Array;
  readonly commandLine: string;
}

/** Offsets in a PE file: of where its header is named; in that; in the optional header behind. */
const HEADER_AT = 0x3c;
const PROCESSOR = 4;
const SECTION_COUNT = 6;
const OPTIONAL_SIZE = 20;
const OPTIONAL = 24;
const FILE_ALIGNMENT = 36;
const IMAGE_SIZE = 56;
const HEADERS_SIZE = 60;
const CHECKSUM = 64;

/** A section's header: its size, and where its fields lie. */
const SECTION_BYTES = 40;
const VIRTUAL_SIZE = 8;
const VIRTUAL_ADDRESS = 12;
const RAW_SIZE = 16;
const RAW_AT = 20;
const CHARACTERISTICS = 36;
/** Data that are read. */
const READ_DATA = 0x4000_0040;
const PAGE_BYTES = 4096;

/**
 * The stub with a section for each part: what `objcopy --add-section` makes. Equal parts give equal
 * bytes. Throws INVALID where the stub is none.
 */
export function unifiedKernelImage(parts: UnifiedKernelParts): Buffer {
  const { stub, kernel, initrd, commandLine } = parts;
  const at = headerOf(stub);
  const optional = at + OPTIONAL;
  const table = optional + stub.readUInt16LE(at + OPTIONAL_SIZE);
  const count = stub.readUInt16LE(at + SECTION_COUNT);
  const fileAlignment = stub.readUInt32LE(optional + FILE_ALIGNMENT);
  const sections = { ".cmdline": Buffer.from(commandLine), ".linux": kernel, ".initrd": initrd };
  const names = Object.keys(sections).length;
  if (table + (count + names) * SECTION_BYTES > stub.readUInt32LE(optional + HEADERS_SIZE)) {
    throw new CastoreError("INVALID", "EFI stub: its header has no room for further sections");
  }
  const start = Buffer.alloc(roundUp(stub.length, fileAlignment));
  stub.copy(start);
  const pieces: Uint8Array[] = [start];
  let raw = start.length;
  let virtual = endOfSections(stub, table, count);
  let header = table + count * SECTION_BYTES;
  for (const [name, bytes] of Object.entries(sections)) {
    virtual = roundUp(virtual, PAGE_BYTES);
    const padding = roundUp(bytes.byteLength, fileAlignment) - bytes.byteLength;
    start.write(name, header, "latin1");
    start.writeUInt32LE(bytes.byteLength, header + VIRTUAL_SIZE);
    start.writeUInt32LE(virtual, header + VIRTUAL_ADDRESS);
    start.writeUInt32LE(bytes.byteLength + padding, header + RAW_SIZE);
    start.writeUInt32LE(raw, header + RAW_AT);
    start.writeUInt32LE(READ_DATA, header + CHARACTERISTICS);
    pieces.push(bytes, Buffer.alloc(padding));
    raw += bytes.byteLength + padding;
    virtual += bytes.byteLength;
    header += SECTION_BYTES;
  }
  start.writeUInt16LE(count + names, at + SECTION_COUNT);
  start.writeUInt32LE(roundUp(virtual, PAGE_BYTES), optional + IMAGE_SIZE);
  start.writeUInt32LE(0, optional + CHECKSUM);
  return Buffer.concat(pieces);
}

/** What firmware looks for on a disk that names nothing else, by the processor in a PE header. */
const START_FILES = new Map([
  [0x8664, "BOOTX64.EFI"],
  [0xaa64, "BOOTAA64.EFI"],
]);

/** The name under which firmware finds a program on removable media. Throws INVALID. */
export function startFileOf(program: Buffer): string {
  const processor = program.readUInt16LE(headerOf(program) + PROCESSOR);
  const name = START_FILES.get(processor);
  if (name !== undefined) return name;
  throw new CastoreError("INVALID", `EFI stub: for processor 0x${processor.toString(16)}`);
}

function headerOf(program: Buffer): number {
  const at = program.length > PAGE_BYTES ? program.readUInt32LE(HEADER_AT) : 0;
  const isPe = at > 0 && at < PAGE_BYTES / 2 && program.readUInt32BE(at) === 0x5045_0000;
  // 0x20b: with addresses of 64 bits.
  if (isPe && program.readUInt16LE(at + OPTIONAL) === 0x20b) return at;
  throw new CastoreError("INVALID", "EFI stub: no PE file of 64 bits");
}

function endOfSections(stub: Buffer, table: number, count: number): number {
  const ends = Array.from({ length: count }, (_, index) => {
    const header = table + index * SECTION_BYTES;
    return stub.readUInt32LE(header + VIRTUAL_ADDRESS) + stub.readUInt32LE(header + VIRTUAL_SIZE);
  });
  return Math.max(...ends);
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
