import { CastoreError } from "@castore/castore";

const SECTOR_BYTES = 512;
/** Where the partition begins: as partitioning tools have it. */
const PARTITION_AT = 2048;
/** An EFI system partition, as firmware knows it in a table of the old kind. */
const EFI_PARTITION = 0xef;
const CLUSTER_SECTORS = 16;
const CLUSTER_BYTES = CLUSTER_SECTORS * SECTOR_BYTES;
/** How many clusters make a FAT16: with fewer it would be read as FAT12, with more as FAT32. */
const CLUSTERS_MIN = 4_085;
const CLUSTERS_MAX = 65_524;
const RESERVED_SECTORS = 1;
const ROOT_ENTRIES = 512;
const ENTRY_BYTES = 32;
const ROOT_SECTORS = (ROOT_ENTRIES * ENTRY_BYTES) / SECTOR_BYTES;
const FIXED_DISK = 0xf8;
const LAST_CLUSTER = 0xffff;
const DIRECTORY = 0x10;
const ARCHIVED = 0x20;
/** 1980-01-01, the first day that FAT has: equal contents give equal bytes. */
const DATE = 0x21;

/**
 * A disk with one FAT partition whose EFI/BOOT/`name` UEFI firmware starts, from a USB stick or a
 * disk. `name` has at most eight characters, a dot and three, in upper case. Throws INVALID where
 * the file is larger than half a GiB.
 */
export function bootDisk(name: string, file: Uint8Array): Buffer {
  const needed = 2 + Math.ceil(file.byteLength / CLUSTER_BYTES);
  const clusters = Math.max(CLUSTERS_MIN + 16, needed);
  if (clusters > CLUSTERS_MAX) {
    throw new CastoreError(
      "INVALID",
      `boot disk: ${name} of ${file.byteLength} bytes is too large`,
    );
  }
  const tableSectors = Math.ceil(((clusters + 2) * 2) / SECTOR_BYTES);
  const dataAt = RESERVED_SECTORS + 2 * tableSectors + ROOT_SECTORS;
  const sectors = dataAt + clusters * CLUSTER_SECTORS;
  const disk = Buffer.alloc((PARTITION_AT + sectors) * SECTOR_BYTES);
  writePartitionTable(disk, sectors);
  const partition = disk.subarray(PARTITION_AT * SECTOR_BYTES);
  writeBootSector(partition, sectors, tableSectors);

  // Clusters 2 and 3 are the directories, the file lies behind them in one piece.
  const table = [FIXED_DISK | 0xff00, LAST_CLUSTER, LAST_CLUSTER, LAST_CLUSTER];
  for (let cluster = 4; cluster < 2 + needed; cluster++) table.push(cluster + 1);
  table[table.length - 1] = LAST_CLUSTER;
  for (const copy of [0, 1]) {
    const at = (RESERVED_SECTORS + copy * tableSectors) * SECTOR_BYTES;
    table.forEach((next, cluster) => {
      partition.writeUInt16LE(next, at + 2 * cluster);
    });
  }
  const clusterAt = (cluster: number) => (dataAt + (cluster - 2) * CLUSTER_SECTORS) * SECTOR_BYTES;
  const rootAt = (RESERVED_SECTORS + 2 * tableSectors) * SECTOR_BYTES;
  writeEntry(partition, rootAt, { name: "EFI", cluster: 2 });
  writeEntry(partition, clusterAt(2), { name: ".", cluster: 2 });
  writeEntry(partition, clusterAt(2) + ENTRY_BYTES, { name: "..", cluster: 0 });
  writeEntry(partition, clusterAt(2) + 2 * ENTRY_BYTES, { name: "BOOT", cluster: 3 });
  writeEntry(partition, clusterAt(3), { name: ".", cluster: 3 });
  writeEntry(partition, clusterAt(3) + ENTRY_BYTES, { name: "..", cluster: 2 });
  writeEntry(partition, clusterAt(3) + 2 * ENTRY_BYTES, { name, cluster: 4, file });
  partition.set(file, clusterAt(4));
  return disk;
}

function writePartitionTable(disk: Buffer, sectors: number): void {
  const entry = 446;
  // Cylinders and heads are those that mean: too far for such numbers.
  disk.set([0, 0xfe, 0xff, 0xff, EFI_PARTITION, 0xfe, 0xff, 0xff], entry);
  disk.writeUInt32LE(PARTITION_AT, entry + 8);
  disk.writeUInt32LE(sectors, entry + 12);
  disk.writeUInt16BE(0x55aa, 510);
}

function writeBootSector(partition: Buffer, sectors: number, tableSectors: number): void {
  // A jump, which only older firmware would take.
  partition.set([0xeb, 0xfe, 0x90]);
  partition.write("castore ", 3, "latin1");
  partition.writeUInt16LE(SECTOR_BYTES, 11);
  partition.writeUInt8(CLUSTER_SECTORS, 13);
  partition.writeUInt16LE(RESERVED_SECTORS, 14);
  partition.writeUInt8(2, 16); // copies of the table
  partition.writeUInt16LE(ROOT_ENTRIES, 17);
  partition.writeUInt8(FIXED_DISK, 21);
  partition.writeUInt16LE(tableSectors, 22);
  partition.writeUInt16LE(63, 24); // sectors of a track
  partition.writeUInt16LE(255, 26); // heads
  partition.writeUInt32LE(PARTITION_AT, 28);
  partition.writeUInt32LE(sectors, 32);
  partition.set([0x80, 0, 0x29], 36); // what follows is there: number, label, kind
  partition.write("CASTORE    FAT16   ", 43, "latin1");
  partition.writeUInt16BE(0x55aa, 510);
}

interface Entry {
  readonly name: string;
  readonly cluster: number;
  /** Without it, a directory. */
  readonly file?: Uint8Array;
}

function writeEntry(partition: Buffer, at: number, { name, cluster, file }: Entry): void {
  const [, base = "", ending = ""] = /^(\.+|[^.]+)\.?(.*)$/.exec(name) ?? [];
  partition.write(`${base.padEnd(8)}${ending.padEnd(3)}`, at, "latin1");
  partition.writeUInt8(file === undefined ? DIRECTORY : ARCHIVED, at + 11);
  for (const field of [16, 18, 24]) partition.writeUInt16LE(DATE, at + field);
  partition.writeUInt16LE(cluster, at + 26);
  partition.writeUInt32LE(file?.byteLength ?? 0, at + 28);
}
