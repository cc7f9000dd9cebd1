import type { ContentSource } from "./content-source.ts";
import { loadSyscalls, type Syscalls } from "./syscalls.ts";

/** Below this, reading through the page cache is as fast and costs no call. */
const PASSTHROUGH_BYTES_MIN = 64 << 10;
/** Most files that are kept for the kernel although nobody has them open. */
const IDLE_BACKINGS_MAX = 256;

/** _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t). */
const FUSE_DEV_IOC_BACKING_OPEN = 0x4010e501;
const FUSE_DEV_IOC_BACKING_CLOSE = 0x4004e502;

interface OpenInode {
  opens: number;
  /** The kernel's number of the file that stands behind; undefined where it asks for the bytes. */
  readonly backing: number | undefined;
}

/** How large files were opened, across the servers of one mount. */
export interface OpenedFiles {
  /** The last number of each inode when this server began; 0 where the kernel asks for bytes. */
  readonly before: ReadonlyMap<number, number>;
  /** Notes it for the next server, before the kernel hears of it. */
  note(id: number, backing: number): void;
}

/**
 * Gives the kernel files to read from instead of asking. An inode keeps the way in which it is
 * read, and the file behind it, until its last release: mixing them gives programs EIO. What a
 * server before this one opened may still be open, so it stays as it is for good.
 */
export class Passthrough {
  /** False where the kernel does not know how. */
  enabled = true;
  /** The kernel takes no file. */
  #refused = false;
  readonly #descriptor: number;
  readonly #contents: ContentSource;
  readonly #syscalls: Syscalls;
  readonly #open = new Map<number, OpenInode>();
  /** Backings of inodes that are not open, the least recently used first. */
  readonly #idle = new Map<number, number>();

  readonly #opened: OpenedFiles | undefined;

  constructor(descriptor: number, syscalls: Syscalls, { contents, opened }: PassthroughOptions) {
    this.#descriptor = descriptor;
    this.#contents = contents;
    this.#syscalls = syscalls;
    this.#opened = opened;
    for (const [id, backing] of opened?.before ?? []) {
      this.#open.set(id, { opens: 1, backing: backing === 0 ? undefined : backing });
    }
  }

  disable(): void {
    this.enabled = false;
  }

  /** The number of the file behind inode `id`; undefined where its bytes are to be asked for. */
  open(id: number, size: number): number | undefined {
    const known = this.#open.get(id);
    if (known !== undefined) {
      known.opens++;
      return known.backing;
    }
    const isLarge = size >= PASSTHROUGH_BYTES_MIN;
    const backing = isLarge ? this.#backing(id) : undefined;
    if (isLarge) this.#opened?.note(id, backing ?? 0);
    this.#open.set(id, { opens: 1, backing });
    return backing;
  }

  release(id: number): void {
    const known = this.#open.get(id);
    if (known === undefined || --known.opens > 0) return;
    this.#open.delete(id);
    if (known.backing === undefined) return;
    this.#idle.set(id, known.backing);
    for (const [oldest, backing] of this.#idle) {
      if (this.#idle.size <= IDLE_BACKINGS_MAX) break;
      this.#idle.delete(oldest);
      this.#close(backing);
    }
  }

  #backing(id: number): number | undefined {
    const idle = this.#idle.get(id);
    if (idle !== undefined) {
      this.#idle.delete(id);
      return idle;
    }
    const descriptor = this.#refused ? undefined : this.#contents.descriptor(id);
    if (descriptor === undefined) return undefined;
    const map = Buffer.alloc(16);
    map.writeInt32LE(descriptor, 0);
    try {
      return this.#syscalls.ioctl(this.#descriptor, FUSE_DEV_IOC_BACKING_OPEN, map);
    } catch {
      // Not root, or a stacked file system: READ serves, and no other file would do better.
      this.#refused = true;
      return undefined;
    }
  }

  #close(backing: number): void {
    const argument = Buffer.alloc(4);
    argument.writeUInt32LE(backing, 0);
    try {
      this.#syscalls.ioctl(this.#descriptor, FUSE_DEV_IOC_BACKING_CLOSE, argument);
    } catch {
      // It goes with the connection at the latest.
    }
  }
}

/** Undefined where system calls cannot be made. */
export async function createPassthrough(
  descriptor: number,
  options: PassthroughOptions,
): Promise<Passthrough | undefined> {
  const syscalls = await loadSyscalls();
  return syscalls && new Passthrough(descriptor, syscalls, options);
}

export interface PassthroughOptions {
  readonly contents: ContentSource;
  /** Where another server may follow. */
  readonly opened?: OpenedFiles | undefined;
}
