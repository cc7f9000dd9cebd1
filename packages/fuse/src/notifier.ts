import { write } from "node:fs";
import { promisify } from "node:util";
import type { PathComponent } from "@castore/castore";
import { NOTIFY, ROOT_ID } from "./protocol.ts";

const writeAsync = promisify(write);
const HEADER_BYTES = 16;

/**
 * Tells the kernel to forget what it cached. A notification may wait for locks that a request holds
 * which this process has yet to answer: so each is written from a thread of the pool that nobody
 * waits for, one at a time.
 */
export class Notifier {
  readonly #descriptor: number;
  #last: Promise<void> = Promise.resolve();

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** The name in the root means something else now, or nothing, or something at last. */
  rootName(name: PathComponent): void {
    this.#send(encodeInvalidEntry(ROOT_ID, name));
  }

  /** The listing of the root changed. */
  rootListing(): void {
    this.#send(encodeInvalidInode(ROOT_ID));
  }

  /** Asks for the requests that another server read and did not answer (Linux 6.9). */
  resend(): void {
    this.#send(encodeResend());
  }

  /** Resolves once everything was told. */
  idle(): Promise<void> {
    return this.#last;
  }

  #send(message: Buffer): void {
    this.#last = this.#last
      .then(() => writeAsync(this.#descriptor, message, 0, message.length, null))
      .then(
        () => undefined,
        () => undefined, // ENOENT: the kernel knows nothing of it; ENODEV: unmounted
      );
  }
}

/** FUSE_NOTIFY_INVAL_INODE of an inode and all its pages. */
export function encodeInvalidInode(id: number): Buffer {
  const message = Buffer.alloc(HEADER_BYTES + 24);
  writeHeader(message, NOTIFY.INVAL_INODE);
  message.writeUInt32LE(id, HEADER_BYTES);
  return message;
}

/** FUSE_NOTIFY_INVAL_ENTRY of a name in a directory. */
export function encodeInvalidEntry(parent: number, name: PathComponent): Buffer {
  const message = Buffer.alloc(HEADER_BYTES + 16 + name.length + 1);
  writeHeader(message, NOTIFY.INVAL_ENTRY);
  message.writeUInt32LE(parent, HEADER_BYTES);
  message.writeUInt32LE(name.length, HEADER_BYTES + 8);
  message.write(name, HEADER_BYTES + 16, "latin1");
  return message;
}

/** FUSE_NOTIFY_RESEND: what was read and not answered comes again. */
export function encodeResend(): Buffer {
  const message = Buffer.alloc(HEADER_BYTES);
  writeHeader(message, NOTIFY.RESEND);
  return message;
}

/** Bytes of FUSE_NOTIFY_STORE before those of the file. */
export const STORE_HEADER_BYTES = HEADER_BYTES + 24;

/**
 * Writes the header of a FUSE_NOTIFY_STORE of a whole file of `size` bytes, which stand behind it:
 * into the kernel's page cache. The length of the message.
 */
export function writeStoreHeader(message: Buffer, id: number, size: number): number {
  message.fill(0, 0, STORE_HEADER_BYTES);
  writeHeader(message, NOTIFY.STORE, STORE_HEADER_BYTES + size);
  message.writeUInt32LE(id, HEADER_BYTES);
  message.writeUInt32LE(size, HEADER_BYTES + 16);
  return STORE_HEADER_BYTES + size;
}

function writeHeader(message: Buffer, code: number, length = message.length): void {
  message.writeUInt32LE(length, 0);
  message.writeInt32LE(code, 4);
}
