import { writeSync } from "node:fs";
import { isCastoreError, parsePathComponent } from "@castore/castore";
import { type Answers, NO_ANSWER, readRange } from "./answers.ts";
import type { ContentLoader } from "./content-loader.ts";
import { errnoOf } from "./errno.ts";
import type { InodeTable } from "./inode-table.ts";
import { ERRNO, OPCODE } from "./protocol.ts";
import { Request } from "./request.ts";
import type { TreeLoader } from "./tree-loader.ts";

/**
 * A program's read of which the kernel's read-ahead failed makes the kernel ask for the same again,
 * at once: that it does within so long, and what is not here by then is not waited for twice.
 */
const AGAIN_MS = 1_000;
const AGAIN_LIMIT_MS = 100;

export interface MissServerOptions {
  readonly descriptor: number;
  readonly answers: Answers;
  readonly table: InodeTable;
  readonly tree: TreeLoader;
  readonly contents: ContentLoader;
  /** After so long a request is answered with EIO, while what it waits for goes on. */
  readonly timeoutMs: number;
  readonly log: (message: string) => void;
}

/**
 * Answers the requests that the session's thread could not: loads what they need, then answers them
 * as that thread would have. Each request is answered once and within the time limit.
 */
export class MissServer {
  readonly #options: MissServerOptions;
  /** Ways to end the requests that wait, by number. */
  readonly #waiting = new Map<string, (errno: number) => void>();
  /** Files of which a READ took too long just now. */
  readonly #overdue = new Set<number>();
  #closed = false;

  constructor(options: MissServerOptions) {
    this.#options = options;
  }

  /** How many requests wait. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** Takes a request over. */
  serve(bytes: Uint8Array): void {
    const request = new Request(bytes.byteLength);
    request.load(bytes);
    const key = requestKey(request.uniqueLow, request.uniqueHigh);
    const { answers, timeoutMs, log } = this.#options;
    const { nodeId: id, opcode } = request;
    const isAgain = opcode === OPCODE.READ && this.#overdue.has(id);
    const settle = () => {
      clearTimeout(timer);
      return this.#waiting.delete(key);
    };
    const end = (errno: number) => {
      if (settle()) this.#send(answers.answerError(request, errno));
    };
    const expire = () => {
      log(`${describeRequest(request)}: no answer within ${timeoutMs / 1000} s`);
      if (opcode === OPCODE.READ) {
        this.#overdue.add(id);
        setTimeout(() => this.#overdue.delete(id), AGAIN_MS).unref();
      }
      end(ERRNO.EIO);
    };
    const timer = isAgain
      ? setTimeout(() => end(ERRNO.EIO), Math.min(AGAIN_LIMIT_MS, timeoutMs))
      : setTimeout(expire, timeoutMs);
    this.#waiting.set(key, end);
    this.#load(request).then(
      (answer) => {
        if (settle()) this.#send(answer());
      },
      (error: unknown) => {
        if (!this.#closed) log(`${describeRequest(request)}: ${describeError(error)}`);
        end(errnoOf(error));
      },
    );
  }

  /** Ends the wait for a request that its caller gave up; what it started goes on. */
  interrupt(low: number, high: number): void {
    this.#waiting.get(requestKey(low, high))?.(ERRNO.EINTR);
  }

  /** Ends all waits. */
  close(): void {
    this.#closed = true;
    for (const end of [...this.#waiting.values()]) end(ERRNO.EIO);
  }

  /** Loads what the request needs; how to answer it then, without waiting. */
  async #load(request: Request): Promise<() => number> {
    const { answers, table, tree, contents } = this.#options;
    // Each turn loads one thing. Three are enough: a name, its entries, a content.
    for (let turn = 0; turn < 4; turn++) {
      const length = answers.answer(request);
      switch (length) {
        case NO_ANSWER.ROOT_NAME:
          if (await tree.rootName(parsePathComponent(Buffer.from(request.name, "latin1")))) break;
          return () => answers.answerAbsent(request);
        case NO_ANSWER.ENTRIES:
          await tree.entries(request.nodeId);
          break;
        case NO_ANSWER.ROOT_LISTING:
          await tree.rootListing();
          return () => answers.answerListing(request);
        case NO_ANSWER.CONTENT: {
          const id = request.nodeId;
          await tree.holdRootOf(id);
          const range = readRange(request, table.sizeOf(id));
          const pieces = await contents.read({ id, ...range });
          return () => answers.answerContent(request, pieces);
        }
        default:
          return () => answers.answer(request);
      }
    }
    throw new Error("a request needs more than it can be given");
  }

  #send(length: number): void {
    if (length <= 0) return;
    try {
      writeSync(this.#options.descriptor, this.#options.answers.reply.buffer, 0, length, null);
    } catch (error) {
      // The request was withdrawn, or the file system is gone: nobody waits.
      if (!this.#closed) this.#options.log(`answer not delivered: ${describeError(error)}`);
    }
  }
}

function requestKey(low: number, high: number): string {
  return `${high}:${low}`;
}

function describeRequest(request: Request): string {
  return `request ${request.opcode} of inode ${request.nodeId}`;
}

function describeError(error: unknown): string {
  if (isCastoreError(error)) return `${error.code}: ${error.message}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
