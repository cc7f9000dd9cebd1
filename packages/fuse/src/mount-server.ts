import { closeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { CastoreError, type RootNodes } from "@castore/castore";
import { type AnswerOptions, Answers } from "./answers.ts";
import { ContentLoader } from "./content-loader.ts";
import { NO_CONTENT } from "./content-source.ts";
import type { InodeWriter } from "./inode-writer.ts";
import { MissServer } from "./miss-server.ts";
import type { MountOptions } from "./mount.ts";
import type { FuseMount } from "./mountpoint.ts";
import { Notifier } from "./notifier.ts";
import { PageFiller } from "./page-filler.ts";
import { prefetchTrace } from "./prefetcher.ts";
import { OPCODE, REQUEST_COUNTERS } from "./protocol.ts";
import { Reply } from "./reply.ts";
import type { SessionMessage, SessionWorkerData } from "./session-worker.ts";
import { TraceRecorder } from "./trace-recorder.ts";
import { TreeLoader } from "./tree-loader.ts";

export type RequestKind = keyof typeof OPCODE;

/** What serves one mounted file system until it is unmounted. */
export class MountServer {
  /** Resolves once the kernel agreed on a protocol version. */
  readonly started: Promise<void>;
  readonly ended: Promise<void>;
  over = false;
  readonly #notifier: Notifier;
  readonly #misses: MissServer;
  readonly #recorder: TraceRecorder | undefined;
  readonly #pages: PageFiller | undefined;
  readonly #counters = new Uint32Array(new SharedArrayBuffer(REQUEST_COUNTERS * 4));
  /** Ends all that is under way. */
  readonly #end = new AbortController();

  constructor(
    { descriptor, abandon }: FuseMount,
    table: InodeWriter,
    options: MountOptions & { readonly opened?: ReadonlyMap<number, number> | undefined },
  ) {
    const { roots, directories, blobs, cacheBytesMax, log = () => {} } = options;
    const { signal } = this.#end;
    const answerOptions = answerOptionsOf(options);
    const tree = new TreeLoader(table, { roots, directories, signal });
    const contents = new ContentLoader(table, { blobs, signal, cacheBytesMax });
    this.#notifier = new Notifier(descriptor);
    this.#misses = new MissServer({
      descriptor,
      table,
      answers: new Answers(new Reply(), table, { contents: NO_CONTENT, options: answerOptions }),
      tree,
      contents,
      timeoutMs: options.timeoutMs ?? 60_000,
      log,
    });
    if (options.trace !== undefined) this.#recorder = new TraceRecorder(options.trace, table, log);
    const { memory } = table;
    const { content, foresee = true } = options;
    if (content !== undefined && foresee) {
      this.#pages = new PageFiller({ descriptor, memory, content });
    }
    const worker = startWorker({
      descriptor,
      memory,
      options: answerOptions,
      content,
      counters: this.#counters.buffer,
      stretches: this.#pages?.stretches,
      trace: options.trace !== undefined,
      succession: options.inherited && {
        journal: options.inherited.journal,
        opened: options.opened ?? new Map(),
      },
    });
    this.started = this.#receive(worker, contents);
    // A process that ends waits for its threads, and this one waits for the kernel.
    process.once("exit", abandon);
    this.ended = ending(worker).finally(async () => {
      process.removeListener("exit", abandon);
      await this.#close();
      closeSync(descriptor);
    });
    // Whoever waits for them gets the failure; nobody has to.
    this.started.catch(() => {});
    this.ended.catch(() => {});
    followChanges({ roots, table, notifier: this.#notifier, signal }).catch((error: unknown) =>
      log(`changes of the root are no longer seen: ${error}`),
    );
    if (options.prefetch !== undefined) {
      const waiting = () => this.#misses.waiting;
      prefetchTrace(options.prefetch, { table, tree, contents, waiting, log, signal }).catch(
        (error: unknown) => log(`prefetch ${options.prefetch}: ${error}`),
      );
    }
  }

  /** Asks for what a server before this one left unanswered. */
  resume(): void {
    this.#notifier.resend();
  }

  requests(kind: RequestKind | undefined): number {
    if (kind !== undefined) return this.#counters[OPCODE[kind]] ?? 0;
    return this.#counters.reduce((sum, count) => sum + count, 0);
  }

  #receive(worker: Worker, contents: ContentLoader): Promise<void> {
    return new Promise((resolve, reject) => {
      worker.on("message", (message: SessionMessage) => {
        if (message.type === "miss") this.#misses.serve(message.request);
        else if (message.type === "interrupt") this.#misses.interrupt(message.low, message.high);
        else if (message.type === "touch") this.#recorder?.touch(message);
        else if (message.type === "read") contents.wasRead(message.id);
        else if (message.type === "stretches") this.#pages?.start();
        else if (message.ok) resolve();
        else reject(new CastoreError("UNSUPPORTED", "mount: this kernel is older than 5.4"));
      });
      worker.once("exit", () => reject(new CastoreError("CLOSED", "mount: ended at once")));
    });
  }

  async #close(): Promise<void> {
    this.over = true;
    this.#misses.close();
    this.#end.abort(new CastoreError("CLOSED", "mount: unmounted"));
    await this.#notifier.idle();
    await this.#pages?.close();
    await this.#recorder?.close();
  }
}

function answerOptionsOf(options: MountOptions): AnswerOptions {
  const { owner = { uid: 0, gid: 0 } } = options;
  return {
    uid: owner.uid,
    gid: owner.gid,
    listRoot: options.listRoot ?? false,
    xattr: options.xattr ?? false,
    passthrough: options.passthrough ?? false,
  };
}

function startWorker(workerData: SessionWorkerData): Worker {
  return new Worker(new URL("./session-worker.js", import.meta.url), { workerData });
}

function ending(worker: Worker): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.once("error", reject);
    worker.once("exit", () => resolve());
  });
}

interface ChangesOptions {
  readonly roots: RootNodes;
  readonly table: InodeWriter;
  readonly notifier: Notifier;
  readonly signal: AbortSignal;
}

/** Brings changes of the root into the table and tells the kernel. */
async function followChanges({ roots, table, notifier, signal }: ChangesOptions): Promise<void> {
  for await (const { name, root } of roots.changes({ signal })) {
    const known = table.findRoot(name);
    if (root === undefined) table.removeRoot(name);
    else if (known !== 0) table.setRoot(name, root);
    notifier.rootName(name);
    notifier.rootListing();
  }
}
