import { writeSync } from "node:fs";
import { workerData } from "node:worker_threads";
import type { DirectContentModule } from "@castore/castore";
import { openContents } from "./content-source.ts";
import { type InodeMemory, InodeTable } from "./inode-table.ts";
import { STORE_HEADER_BYTES, writeStoreHeader } from "./notifier.ts";
import { isSmallFile, STRETCH_FILE_BYTES_MAX } from "./reading-order.ts";
import { StretchQueue } from "./stretch-queue.ts";

/** What the thread is started with. */
export interface PageWorkerData {
  readonly descriptor: number;
  readonly memory: InodeMemory;
  readonly content: DirectContentModule;
  /** Of a StretchQueue. */
  readonly stretches: SharedArrayBuffer;
}

/**
 * Where it goes on when the program that reads has come to its side: so many files ahead, as else
 * each of them waits for the other at every file.
 */
const LEAD = 6;

/**
 * Puts files that will be read next into the kernel's page cache: that costs 14 µs each, and nobody
 * waits, where asking for one costs its reader 45 µs. A thread of its own, as it may have to wait
 * for a page until a request for it is answered.
 */
async function fill({ descriptor, memory, content, ...data }: PageWorkerData): Promise<void> {
  const table = new InodeTable(memory);
  const contents = await openContents(table, content);
  const queue = new StretchQueue(data.stretches);
  const message = Buffer.alloc(STORE_HEADER_BYTES + STRETCH_FILE_BYTES_MAX);
  for (let stretch = queue.take(); stretch !== undefined; stretch = queue.take()) {
    for (let id = stretch.first; id < stretch.end; id++) {
      const { reached } = queue;
      if (id <= reached && reached < stretch.end) id = reached + LEAD;
      // That the kernel asks for a file may be what somebody waits for.
      if (id >= stretch.end || !isSmallFile(table, id) || table.isAwaited(id)) continue;
      const size = table.sizeOf(id);
      if (!contents.read({ id, start: 0, end: size }, message, STORE_HEADER_BYTES)) break;
      try {
        writeSync(descriptor, message, 0, writeStoreHeader(message, id, size), null);
      } catch {
        break; // the kernel does not know the inode, or any longer, or is unmounting
      }
    }
  }
  contents.close();
}

await fill(workerData);
