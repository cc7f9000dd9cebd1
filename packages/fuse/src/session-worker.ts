import { readSync, writeSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import type { DirectContentModule } from "@castore/castore";
import { type AnswerOptions, Answers, NO_ANSWER, readRange } from "./answers.ts";
import { openContents } from "./content-source.ts";
import { recordOpened } from "./inode-journal.ts";
import { type InodeMemory, InodeTable } from "./inode-table.ts";
import { NearClient } from "./near-client.ts";
import { createPassthrough, type OpenedFiles } from "./passthrough.ts";
import { OPCODE, ROOT_ID } from "./protocol.ts";
import { ReadingOrder } from "./reading-order.ts";
import { Reply } from "./reply.ts";
import { Request } from "./request.ts";
import { StretchQueue } from "./stretch-queue.ts";
import { loadSyscalls } from "./syscalls.ts";

/** What the thread is started with. */
export interface SessionWorkerData {
  readonly descriptor: number;
  readonly memory: InodeMemory;
  readonly options: AnswerOptions;
  readonly content: DirectContentModule | undefined;
  /** REQUEST_COUNTERS numbers of 32 bits: how many requests came, by opcode. */
  readonly counters: SharedArrayBuffer;
  /** Of a StretchQueue: where to tell which files will be read next, and are at hand. */
  readonly stretches: SharedArrayBuffer | undefined;
  /** Whether to tell what is touched. */
  readonly trace: boolean;
  /** Where another server may follow: the journal, and how this one's files were opened before. */
  readonly succession:
    | { readonly journal: number; readonly opened: ReadonlyMap<number, number> }
    | undefined;
}

/** What the thread says. */
export type SessionMessage =
  /** A request that needs something loaded; whoever receives it answers it. */
  | { readonly type: "miss"; readonly request: Uint8Array }
  /** The request of this number is no longer wanted. */
  | { readonly type: "interrupt"; readonly low: number; readonly high: number }
  /** Something is looked at or read for the first time. */
  | { readonly type: "touch"; readonly id: number; readonly start: number; readonly end: number }
  /** A file is read of which that is awaited. */
  | { readonly type: "read"; readonly id: number }
  /** Somebody reads in order: there is a stretch in the queue, the first one. */
  | { readonly type: "stretches" }
  /** INIT was answered, well or not. */
  | { readonly type: "started"; readonly ok: boolean };

/** The shortest there is, and long enough for most answers; the usual is 1 to 3 ms. */
const SLICE_NS = 100_000;
/** Reads are told in blocks of this size; no file has more of them than the other number. */
const TRACE_BYTES = 128 << 10;
const TRACE_BLOCKS_MAX = 2 ** 24;

/**
 * Reads requests one by one, blocking, and answers at once what can be: a thread that blocks costs
 * 15 µs a LOOKUP, asynchronous reads 53 µs, the main thread 141 µs (design notes of the mount).
 * Returns when the file system is unmounted.
 */
async function serve(data: SessionWorkerData): Promise<void> {
  const { descriptor, memory, options } = data;
  const counters = new Uint32Array(data.counters);
  const table = new InodeTable(memory);
  const contents = await openContents(table, data.content);
  const reply = new Reply();
  const passthrough = options.passthrough
    ? await createPassthrough(descriptor, { contents, opened: openedFiles(data) })
    : undefined;
  const answers = new Answers(reply, table, { contents, options, passthrough });
  const request = new Request();
  const near = await beNear();
  const touches = data.trace ? new Touches(table) : undefined;
  // What the kernel has it does not ask for, and a trace shows what is asked for.
  const ahead = data.trace || !data.stretches ? undefined : new Ahead(table, data.stretches);
  for (;;) {
    const length = readRequest(descriptor, request.buffer);
    if (length < 0) break;
    if (!request.begin(length)) continue;
    const { opcode } = request;
    counters[opcode] = (counters[opcode] ?? 0) + 1;
    if (opcode === OPCODE.INTERRUPT) {
      post({ type: "interrupt", low: request.interruptedLow, high: request.interruptedHigh });
      continue;
    }
    touches?.note(request);
    if (opcode === OPCODE.READ) {
      ahead?.reach(request.nodeId);
      if (table.isAwaited(request.nodeId)) post({ type: "read", id: request.nodeId });
    }
    const result = answers.answer(request);
    if (result > 0) {
      writeReply(descriptor, reply.buffer, result);
      near?.answered(request.pid, result);
      if (opcode === OPCODE.READ && request.readOffset === 0) ahead?.wasRead(request.nodeId);
    } else if (result !== NO_ANSWER.NONE) post({ type: "miss", request: request.copy() });
    if (opcode === OPCODE.INIT) post({ type: "started", ok: !reply.failed });
  }
  contents.close();
}

/**
 * Has the thread run soon after it is woken. That waits until another one has had its slice, 1 to
 * 4 ms, unless its own is shorter: from an answer to the next request it takes 133 µs of a fresh
 * find; while the main thread takes directories in and other processes are at work it was 240 µs in
 * the mean, and is 160. Undefined where koffi, this kernel or a policy knows no such thing.
 */
async function beNear(): Promise<NearClient | undefined> {
  const syscalls = await loadSyscalls();
  try {
    syscalls?.setSlice(SLICE_NS);
    return syscalls && new NearClient(syscalls);
  } catch {
    return undefined; // answers only come later
  }
}

function openedFiles({ succession }: SessionWorkerData): OpenedFiles | undefined {
  if (succession === undefined) return undefined;
  const { journal, opened: before } = succession;
  return { before, note: (id, backing) => recordOpened(journal, id, backing) };
}

/** Tells which files at hand will be read next, from the first one that somebody reads in order. */
class Ahead {
  readonly #order: ReadingOrder;
  readonly #queue: StretchQueue;
  #told = false;

  constructor(table: InodeTable, stretches: SharedArrayBuffer) {
    this.#order = new ReadingOrder(table);
    this.#queue = new StretchQueue(stretches);
  }

  /** A file is asked for. */
  reach(id: number): void {
    this.#queue.reach(id);
  }

  /** A file is read from its start, and the answer was sent. */
  wasRead(id: number): void {
    const stretch = this.#order.after(id);
    if (stretch === undefined) return;
    this.#queue.put(stretch);
    if (!this.#told) post({ type: "stretches" });
    this.#told = true;
  }
}

/** Tells each directory that is listed, and each block of a file that is read, once. */
class Touches {
  readonly #table: InodeTable;
  readonly #seen = new Set<number>();

  constructor(table: InodeTable) {
    this.#table = table;
  }

  note(request: Request): void {
    const { opcode, nodeId: id } = request;
    if (opcode === OPCODE.READDIR || opcode === OPCODE.READDIRPLUS) {
      if (id !== ROOT_ID && this.#isNew(id, 0)) post({ type: "touch", id, start: 0, end: 0 });
    } else if (opcode === OPCODE.READ) {
      const { start, end } = readRange(request, this.#table.sizeOf(id));
      if (start < end && this.#isNew(id, 1 + Math.floor(start / TRACE_BYTES))) {
        post({ type: "touch", id, start, end });
      }
    }
  }

  #isNew(id: number, block: number): boolean {
    const before = this.#seen.size;
    this.#seen.add(id * TRACE_BLOCKS_MAX + block);
    return this.#seen.size > before;
  }
}

function post(message: SessionMessage): void {
  parentPort?.postMessage(message);
}

/** The next request's length; -1 once the file system is unmounted. */
function readRequest(descriptor: number, buffer: Buffer): number {
  for (;;) {
    try {
      return readSync(descriptor, buffer, 0, buffer.length, null);
    } catch (error) {
      const code = errorCode(error);
      if (code === "ENODEV" || code === "ECONNABORTED") return -1;
      // ENOENT: the request was withdrawn between wake-up and read.
      if (code !== "EINTR" && code !== "EAGAIN" && code !== "ENOENT") throw error;
    }
  }
}

function writeReply(descriptor: number, buffer: Buffer, length: number): void {
  try {
    writeSync(descriptor, buffer, 0, length, null);
  } catch (error) {
    // ENOENT: the request was interrupted. ENODEV, ECONNABORTED: unmounted; the next read says so.
    const code = errorCode(error);
    if (code !== "ENOENT" && code !== "ENODEV" && code !== "ECONNABORTED") throw error;
  }
}

function errorCode(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

await serve(workerData);
