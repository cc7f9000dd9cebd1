import { closeSync } from "node:fs";
import { resolve } from "node:path";
import { Worker } from "node:worker_threads";
import {
  type BlobService,
  CastoreError,
  type DirectContentModule,
  type DirectoryService,
  type Node,
  type PathComponent,
  type RootNodes,
} from "@castore/castore";
import { type AnswerOptions, Answers } from "./answers.ts";
import { ContentLoader } from "./content-loader.ts";
import { NO_CONTENT } from "./content-source.ts";
import { InodeJournal } from "./inode-journal.ts";
import { InodeWriter } from "./inode-writer.ts";
import { MissServer } from "./miss-server.ts";
import { type FuseMount, mountFuse, type UnmountOptions, unmountFuse } from "./mountpoint.ts";
import { Notifier } from "./notifier.ts";
import { OPCODE, REQUEST_COUNTERS } from "./protocol.ts";
import { Reply } from "./reply.ts";
import type { SessionMessage, SessionWorkerData } from "./session-worker.ts";
import { type InheritedMount, reportAlive } from "./supervisor.ts";
import { TreeLoader } from "./tree-loader.ts";

export interface MountOptions {
  /** A directory; empty unless `over`. */
  readonly mountpoint: string;
  readonly roots: RootNodes;
  readonly directories: DirectoryService;
  /** Must verify what it yields. */
  readonly blobs: BlobService;
  /**
   * Blobs that are at hand, which are read without asking `blobs`. They may come and go. A file's
   * first byte then costs 15 µs instead of 140.
   */
  readonly content?: DirectContentModule | undefined;
  /** Names that the root has besides those of `roots`, and before them. */
  readonly extraRoots?: Iterable<readonly [PathComponent, Node]> | undefined;
  /** Whether the root can be listed; lookups work in any case. Default false. */
  readonly listRoot?: boolean | undefined;
  /** Whether users other than the one who mounts may look. Default false. */
  readonly allowOther?: boolean | undefined;
  /** Mount over what is at the mountpoint. Default false. */
  readonly over?: boolean | undefined;
  /** Who owns everything. Default 0:0. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined;
  /** Show digests as extended attributes; costs requests whenever a program asks for any. */
  readonly xattr?: boolean | undefined;
  /**
   * Let the kernel read large files of `content` itself. Needs root, Linux 6.9 and koffi; where one
   * is missing, or the files lie on a stacked file system, they are read as without. Opening a file
   * costs a request then, small ones included, so this pays for large files only. Default false.
   */
  readonly passthrough?: boolean | undefined;
  /**
   * After so long a program that waits gets EIO, while what it waits for goes on being fetched.
   * Default 60 s.
   */
  readonly timeoutMs?: number | undefined;
  /** Serve a mount that `superviseMount` made, in a process that it started. */
  readonly inherited?: InheritedMount | undefined;
  /** Told what went wrong, one line each. Default: nothing is said. */
  readonly log?: ((message: string) => void) | undefined;
}

export type RequestKind = keyof typeof OPCODE;

export interface Mount extends AsyncDisposable {
  readonly mountpoint: string;
  /** Resolves once the file system is gone, whoever unmounted it; rejects if its thread failed. */
  readonly ended: Promise<void>;
  /** How many requests of a kind the kernel sent so far: all kinds together without `kind`. */
  requests(kind?: RequestKind): number;
  /**
   * Unmounts, then resolves as `ended`. Rejects UNAVAILABLE where it is in use, and goes on serving
   * then. `lazy` takes it out of the tree at once and waits for its users; `force` ends them.
   */
  unmount(options?: UnmountOptions): Promise<void>;
  /** Unmounts by force, unless that happened already. Idempotent. */
  close(): Promise<void>;
}

/**
 * Mounts a read-only file system of castore nodes and serves it, from a thread of its own and,
 * where something has to be loaded, from this one: so never wait for it synchronously here.
 */
export async function mountStore(options: MountOptions): Promise<Mount> {
  const mountpoint = resolve(options.mountpoint);
  const { allowOther = false, over = false } = options;
  const table = new InodeWriter();
  const journal = options.inherited && new InodeJournal(options.inherited.journal);
  const resumed = journal?.replay(table) ?? false;
  // A lease that grew in another process begins anew in this one.
  if (resumed) await options.roots.hold(heldNames(table));
  for (const [name, node] of options.extraRoots ?? []) {
    table.markHeld(table.setRoot(name, { node, lazy: false, final: true }));
  }
  const fuse = options.inherited
    ? { descriptor: options.inherited.descriptor, abandon: dieAtOnce }
    : await mountFuse(mountpoint, { allowOther, over });
  const server = new MountServer(fuse, table, options);
  const mount: Mount = {
    mountpoint,
    ended: server.ended,
    requests: (kind) => server.requests(kind),
    async unmount(how) {
      await unmountFuse(mountpoint, how);
      await server.ended;
    },
    async close() {
      if (!server.over) await unmountFuse(mountpoint, { lazy: true, force: true });
      await server.ended;
    },
    async [Symbol.asyncDispose]() {
      await this.close();
    },
  };
  if (resumed) {
    // The kernel agreed with a server before this one, whose unanswered requests come again.
    server.resume();
  } else {
    try {
      await server.started;
      journal?.started();
    } catch (error) {
      await unmountFuse(mountpoint, { lazy: true, force: true });
      throw error;
    }
  }
  if (journal !== undefined) reportAlive(server.ended);
  return mount;
}

function heldNames(table: InodeWriter): PathComponent[] {
  const names: PathComponent[] = [];
  for (let index = 0; index < table.rootCount; index++) {
    const id = table.rootChildAt(index);
    if (table.isHeld(id)) names.push(table.componentOf(id));
  }
  return names;
}

/** For a process whose mount goes on without it: it could not end while a thread waits. */
function dieAtOnce(): void {
  process.kill(process.pid, "SIGKILL");
}

/** What serves one mounted file system until it is unmounted. */
class MountServer {
  /** Resolves once the kernel agreed on a protocol version. */
  readonly started: Promise<void>;
  readonly ended: Promise<void>;
  over = false;
  readonly #notifier: Notifier;
  readonly #counters = new Uint32Array(new SharedArrayBuffer(REQUEST_COUNTERS * 4));

  constructor({ descriptor, abandon }: FuseMount, table: InodeWriter, options: MountOptions) {
    const { roots, directories, blobs, owner = { uid: 0, gid: 0 } } = options;
    const log = options.log ?? (() => {});
    const answerOptions: AnswerOptions = {
      uid: owner.uid,
      gid: owner.gid,
      listRoot: options.listRoot ?? false,
      xattr: options.xattr ?? false,
      passthrough: options.passthrough ?? false,
    };
    const end = new AbortController();
    const { signal } = end;
    const misses = new MissServer({
      descriptor,
      table,
      answers: new Answers(new Reply(), table, { contents: NO_CONTENT, options: answerOptions }),
      tree: new TreeLoader(table, { roots, directories, signal }),
      contents: new ContentLoader(table, { blobs, signal }),
      timeoutMs: options.timeoutMs ?? 60_000,
      log,
    });
    const notifier = new Notifier(descriptor);
    this.#notifier = notifier;
    const worker = startWorker({
      descriptor,
      memory: table.memory,
      options: answerOptions,
      content: options.content,
      counters: this.#counters.buffer,
    });
    const changes = followChanges({ roots, table, notifier, signal });
    changes.catch((error: unknown) => log(`changes of the root are no longer seen: ${error}`));
    this.started = new Promise((resolve, reject) => {
      worker.on("message", (message: SessionMessage) => {
        if (message.type === "miss") misses.serve(message.request);
        else if (message.type === "interrupt") misses.interrupt(message.low, message.high);
        else if (message.ok) resolve();
        else reject(new CastoreError("UNSUPPORTED", "mount: this kernel is older than 5.4"));
      });
      worker.once("exit", () => reject(new CastoreError("CLOSED", "mount: ended at once")));
    });
    // A process that ends waits for its threads, and this one waits for the kernel.
    process.once("exit", abandon);
    this.ended = new Promise<void>((resolve, reject) => {
      worker.once("error", reject);
      worker.once("exit", () => resolve());
    }).finally(async () => {
      this.over = true;
      process.removeListener("exit", abandon);
      misses.close();
      end.abort(new CastoreError("CLOSED", "mount: unmounted"));
      await notifier.idle();
      closeSync(descriptor);
    });
    // Whoever waits for them gets the failure; nobody has to.
    this.started.catch(() => {});
    this.ended.catch(() => {});
  }

  resume(): void {
    this.#notifier.resend();
  }

  requests(kind: RequestKind | undefined): number {
    if (kind !== undefined) return this.#counters[OPCODE[kind]] ?? 0;
    return this.#counters.reduce((sum, count) => sum + count, 0);
  }
}

function startWorker(workerData: SessionWorkerData): Worker {
  return new Worker(new URL("./session-worker.js", import.meta.url), { workerData });
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
