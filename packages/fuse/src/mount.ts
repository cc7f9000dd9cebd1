import { resolve } from "node:path";
import type {
  BlobService,
  DirectContentModule,
  Node,
  PathComponent,
  RootNodes,
} from "@castore/castore";
import { servedDescriptor } from "./cloned-descriptor.ts";
import { InodeJournal } from "./inode-journal.ts";
import { InodeWriter } from "./inode-writer.ts";
import { MountServer, type RequestKind } from "./mount-server.ts";
import { mountFuse, type UnmountOptions, unmountFuse } from "./mountpoint.ts";
import { type InheritedMount, reportAlive } from "./supervisor.ts";
import type { Directories } from "./tree-loader.ts";

export interface MountOptions {
  /** A directory; empty unless `over`. */
  readonly mountpoint: string;
  readonly roots: RootNodes;
  /** Those of a local store are taken in without waiting. */
  readonly directories: Directories;
  /** Must verify what it yields. May fetch what it opens. */
  readonly blobs: Pick<BlobService, "open">;
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
  /**
   * Whether small files that a program reads in the order of their directory are put into the
   * kernel's page cache before it asks for them, where `content` has them. Default true.
   */
  readonly foresee?: boolean | undefined;
  /** Most bytes of contents that are kept in memory. Default 64 MiB. */
  readonly cacheBytesMax?: number | undefined;
  /** A file in which to record what is touched, in order. */
  readonly trace?: string | undefined;
  /** A file that `trace` wrote: what it names is loaded ahead of demand. */
  readonly prefetch?: string | undefined;
  /** As of MountpointOptions. */
  readonly readAheadKib?: number | undefined;
  /** Serve a mount that `superviseMount` made, in a process that it started. */
  readonly inherited?: InheritedMount | undefined;
  /** Told what went wrong, one line each. Default: nothing is said. */
  readonly log?: ((message: string) => void) | undefined;
}

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
    ? { descriptor: await servedDescriptor(options.inherited), abandon: dieAtOnce }
    : await mountFuse(mountpoint, { allowOther, over, readAheadKib: options.readAheadKib });
  const server = new MountServer(fuse, table, { ...options, opened: journal?.opened });
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
