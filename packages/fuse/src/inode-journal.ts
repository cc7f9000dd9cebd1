import { fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";
import {
  decodeNode,
  encodeNode,
  type PathComponent,
  parsePathComponent,
  type RootNode,
} from "@castore/castore";
import type { InodeChanges, InodeWriter } from "./inode-writer.ts";

/**
 * A record is its kind (1 byte), the length of the rest (4 bytes), and the rest:
 * ROOT: bits, length of the name, name, node · GONE: name · HELD: id · ENTRIES: id, directory ·
 * TWIN: id · STARTED: nothing · OPENED: id, the kernel's number of the file behind it, 0 for none.
 */
const KIND = { ROOT: 1, GONE: 2, HELD: 3, ENTRIES: 4, TWIN: 5, STARTED: 6, OPENED: 7 } as const;
const HEADER_BYTES = 5;
const LAZY = 1;
const FINAL = 2;

/**
 * What an inode table was made of, in order, in a file that outlives the process: made again from
 * it, the table has the same ids. Each change is written before the kernel may hear of it; it only
 * has to outlive a process, so nothing is flushed.
 */
export class InodeJournal implements InodeChanges {
  readonly #descriptor: number;
  /** How large files were opened last, by inode (see Passthrough): what `replay` found. */
  readonly opened = new Map<number, number>();

  /** `descriptor` is of a file to read and write, which becomes the journal's own. */
  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /**
   * Makes `table`, which must be new, what the journal says, then records its changes. Whether the
   * kernel had been answered before.
   */
  replay(table: InodeWriter): boolean {
    const bytes = readWhole(this.#descriptor);
    let started = false;
    let position = 0;
    while (position + HEADER_BYTES <= bytes.length) {
      const end = position + HEADER_BYTES + bytes.readUInt32LE(position + 1);
      if (end > bytes.length) break;
      const kind = bytes[position];
      if (kind === KIND.STARTED) started = true;
      else if (kind === KIND.OPENED) {
        this.opened.set(bytes.readUInt32LE(position + 5), bytes.readUInt32LE(position + 9));
      } else apply(table, kind, bytes.subarray(position + HEADER_BYTES, end));
      position = end;
    }
    // A record that was cut short: whoever wrote it told nobody.
    ftruncateSync(this.#descriptor, position);
    table.changes = this;
    return started;
  }

  /** The kernel has been answered: it will not introduce itself again. */
  started(): void {
    this.#append(KIND.STARTED);
  }

  root(name: PathComponent, root: RootNode): void {
    const bits = (root.lazy ? LAZY : 0) | (root.final ? FINAL : 0);
    const head = Buffer.from([bits, name.length]);
    this.#append(KIND.ROOT, head, Buffer.from(name, "latin1"), encodeNode(root.node));
  }

  gone(name: PathComponent): void {
    this.#append(KIND.GONE, Buffer.from(name, "latin1"));
  }

  held(id: number): void {
    this.#append(KIND.HELD, idBytes(id));
  }

  entries(id: number, encoded: Uint8Array | undefined): void {
    if (encoded === undefined) this.#append(KIND.TWIN, idBytes(id));
    else this.#append(KIND.ENTRIES, idBytes(id), encoded);
  }

  #append(kind: number, ...parts: readonly Uint8Array[]): void {
    appendRecord(this.#descriptor, kind, ...parts);
  }
}

/**
 * Notes, from whatever thread, how a file was opened: the file is appended to, and a record is
 * written at once.
 */
export function recordOpened(descriptor: number, id: number, backing: number): void {
  appendRecord(descriptor, KIND.OPENED, idBytes(id), idBytes(backing));
}

function appendRecord(descriptor: number, kind: number, ...parts: readonly Uint8Array[]): void {
  const record = Buffer.concat([Buffer.alloc(HEADER_BYTES), ...parts]);
  record[0] = kind;
  record.writeUInt32LE(record.length - HEADER_BYTES, 1);
  for (let written = 0; written < record.length; ) {
    written += writeSync(descriptor, record, written);
  }
}

function apply(table: InodeWriter, kind: number | undefined, body: Buffer): void {
  if (kind === KIND.ROOT) {
    const nameEnd = 2 + (body[1] ?? 0);
    table.setRoot(parsePathComponent(body.subarray(2, nameEnd)), {
      node: decodeNode(body.subarray(nameEnd)),
      lazy: ((body[0] ?? 0) & LAZY) !== 0,
      final: ((body[0] ?? 0) & FINAL) !== 0,
    });
  } else if (kind === KIND.GONE) {
    table.removeRoot(parsePathComponent(body));
  } else if (kind === KIND.HELD) {
    table.markHeld(body.readUInt32LE());
  } else if (kind === KIND.ENTRIES) {
    table.populate(body.readUInt32LE(), body.subarray(4));
  } else {
    table.populate(body.readUInt32LE(), undefined);
  }
}

function idBytes(id: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(id);
  return bytes;
}

function readWhole(descriptor: number): Buffer {
  const bytes = Buffer.alloc(fstatSync(descriptor).size);
  let read = 0;
  for (let n = -1; n !== 0 && read < bytes.length; read += n) {
    n = readSync(descriptor, bytes, read, bytes.length - read, read);
  }
  return bytes.subarray(0, read);
}
