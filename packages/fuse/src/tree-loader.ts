import { setImmediate } from "node:timers/promises";
import {
  CastoreError,
  type Digest,
  type DirectDirectoryService,
  type Directory,
  type DirectoryService,
  directoryOf,
  EMPTY_DIGEST,
  encodeDirectory,
  type PathComponent,
  parseDigest,
  type RootNodes,
} from "@castore/castore";
import { TYPE } from "./inode-table.ts";
import type { InodeWriter } from "./inode-writer.ts";

/** Up to so many entries below a root, all its directories are loaded when the first one is. */
const EAGER_ENTRIES_MAX = 200_000;
/** Directories taken in before other work has its turn. */
const DIRECTORIES_PER_TURN = 8;

/** Directories, and those that are at hand without waiting, where there are such. */
export type Directories = DirectoryService & Partial<Pick<DirectDirectoryService, "peek">>;

export interface TreeLoaderOptions {
  readonly roots: RootNodes;
  readonly directories: Directories;
  /** Ends everything that is under way. */
  readonly signal: AbortSignal;
}

/** Brings names and directories into the inode table: each thing once, however many wait for it. */
export class TreeLoader {
  readonly #table: InodeWriter;
  readonly #roots: RootNodes;
  readonly #directories: Directories;
  readonly #signal: AbortSignal;
  readonly #names = new Map<PathComponent, Promise<boolean>>();
  readonly #entries = new Map<Digest, Promise<Directory>>();
  readonly #closures = new Map<number, ClosureFlight>();
  #listing: Promise<void> | undefined;

  constructor(table: InodeWriter, { roots, directories, signal }: TreeLoaderOptions) {
    this.#table = table;
    this.#roots = roots;
    this.#directories = directories;
    this.#signal = signal;
  }

  /** Whether the root has `name`, which then is in the table and held. */
  rootName(name: PathComponent): Promise<boolean> {
    return oneFlight(this.#names, name, async () => {
      const root = await this.#roots.get(name, { signal: this.#signal });
      if (root === undefined) {
        this.#table.removeRoot(name);
        return false;
      }
      const id = this.#table.setRoot(name, root);
      await this.#hold(id);
      return true;
    });
  }

  /** Brings all names that are known into the table. */
  rootListing(): Promise<void> {
    this.#listing ??= this.#loadListing().finally(() => {
      this.#listing = undefined;
    });
    return this.#listing;
  }

  /** Gives the directory `id` its children. */
  async entries(id: number): Promise<void> {
    const table = this.#table;
    if (table.isPopulated(id)) return;
    const root = table.rootOf(id);
    await this.#hold(root);
    const digest = parseDigest(table.digestOf(id));
    if (!table.knows(digest)) await this.#closure(root)?.arrival(digest);
    if (table.isPopulated(id)) return;
    const directory = table.knows(digest) ? undefined : await this.#directory(digest);
    table.populate(id, directory && encodeDirectory(directory));
  }

  /** Keeps what the name `root` stands for from being collected. */
  async #hold(root: number): Promise<void> {
    if (this.#table.isHeld(root)) return;
    await this.#roots.hold([this.#table.componentOf(root)], { signal: this.#signal });
    this.#table.markHeld(root);
  }

  /** Holds the root above `id`. */
  holdRootOf(id: number): Promise<void> {
    return this.#hold(this.#table.rootOf(id));
  }

  async #loadListing(): Promise<void> {
    for await (const { name, ...root } of this.#roots.list({ signal: this.#signal })) {
      this.#table.setRoot(name, root);
    }
  }

  #directory(digest: Digest): Promise<Directory> {
    return oneFlight(this.#entries, digest, async () => {
      if (digest === EMPTY_DIGEST) return directoryOf([]);
      const directory = await this.#directories.get(digest, { signal: this.#signal });
      if (directory !== undefined) return directory;
      throw new CastoreError("INCOMPLETE", `directory ${digest}: absent`);
    });
  }

  /** The loading of all directories below a root; undefined where it is too large for that. */
  #closure(root: number): ClosureFlight | undefined {
    const known = this.#closures.get(root);
    if (known !== undefined) return known;
    // snix's size counts each entry twice.
    const size = this.#table.sizeOf(root);
    if (size === 0 || size > 2 * EAGER_ENTRIES_MAX) return undefined;
    const flight = new ClosureFlight(this.#table, root);
    this.#closures.set(root, flight);
    flight.run(this.#directories, this.#signal).catch(() => {
      // Each directory that somebody wants is then asked for by itself, and that failure is told.
      this.#closures.delete(root);
    });
    return flight;
  }
}

/** All directories below one root, on their way into the table. */
class ClosureFlight {
  readonly #table: InodeWriter;
  readonly #root: number;
  readonly #waiting = new Map<Digest, () => void>();
  readonly #arrivals = new Map<Digest, Promise<void>>();
  /** Positions whose directory did not come yet. */
  readonly #positions = new Map<Digest, number[]>();
  #over = false;

  constructor(table: InodeWriter, root: number) {
    this.#table = table;
    this.#root = root;
  }

  /** Resolves once the directory `digest` came, or will not come. */
  arrival(digest: Digest): Promise<void> {
    if (this.#over || this.#table.knows(digest)) return Promise.resolve();
    let arrival = this.#arrivals.get(digest);
    if (arrival === undefined) {
      arrival = new Promise((resolve) => this.#waiting.set(digest, resolve));
      this.#arrivals.set(digest, arrival);
    }
    return arrival;
  }

  async run(directories: Directories, signal: AbortSignal): Promise<void> {
    const root = parseDigest(this.#table.digestOf(this.#root));
    try {
      if (directories.peek !== undefined && (await this.#takeIn(directories.peek, signal))) return;
      // The order is breadth first, each digest once: that tells which directory comes next.
      const order = new Set<Digest>([root]);
      const expected = order.values();
      this.#positions.set(root, [this.#root]);
      const last = this.#table.nextId + EAGER_ENTRIES_MAX;
      let turn = 0;
      for await (const directory of directories.getClosure(root, { signal })) {
        const digest = expected.next().value;
        if (digest === undefined || this.#table.nextId > last) return;
        for (const { node } of directory.entries) {
          if (node.type === "directory") order.add(node.digest);
        }
        this.#arrived(digest, encodeDirectory(directory), last);
        if (++turn % DIRECTORIES_PER_TURN === 0) await setImmediate();
      }
    } finally {
      this.#over = true;
      this.#positions.clear();
      this.#arrivals.clear();
      for (const resolve of this.#waiting.values()) resolve();
      this.#waiting.clear();
    }
  }

  /** Takes in what is at hand, breadth first; whether that is all. */
  async #takeIn(peek: DirectDirectoryService["peek"], signal: AbortSignal): Promise<boolean> {
    const table = this.#table;
    const last = table.nextId + EAGER_ENTRIES_MAX;
    const positions = [this.#root];
    let turn = 0;
    let isAwaited = false;
    // The list grows as it is walked.
    for (const id of positions) {
      // Whoever began this has yet to say what it waits for, and whoever waited goes on first.
      if (turn++ % DIRECTORIES_PER_TURN === 0 || isAwaited) {
        await setImmediate();
        signal.throwIfAborted();
      }
      const digest = parseDigest(table.digestOf(id));
      const encoded = table.knows(digest) ? undefined : peek(digest);
      if (encoded === undefined && !table.knows(digest)) return false;
      if (table.nextId > last) return true;
      table.populate(id, encoded);
      const first = table.firstChildOf(id);
      for (let child = first; child < first + table.childCountOf(id); child++) {
        if (table.typeOf(child) === TYPE.DIRECTORY) positions.push(child);
      }
      isAwaited = this.#tell(digest);
    }
    return true;
  }

  #arrived(digest: Digest, encoded: Uint8Array, last: number): void {
    const table = this.#table;
    const stack = this.#positions.get(digest) ?? [];
    this.#positions.delete(digest);
    for (let id = stack.pop(); id !== undefined; id = stack.pop()) {
      if (table.nextId > last) break;
      table.populate(id, table.knows(table.digestOf(id)) ? undefined : encoded);
      const first = table.firstChildOf(id);
      for (let child = first + table.childCountOf(id) - 1; child >= first; child--) {
        if (table.typeOf(child) === TYPE.DIRECTORY) this.#place(child, stack);
      }
    }
    this.#tell(digest);
  }

  /** Whether somebody waited for it. */
  #tell(digest: Digest): boolean {
    this.#waiting.get(digest)?.();
    return this.#waiting.delete(digest);
  }

  /** Notes a new position: at once if its directory is known, else for when it comes. */
  #place(id: number, stack: number[]): void {
    const digest = parseDigest(this.#table.digestOf(id));
    if (this.#table.knows(digest)) {
      stack.push(id);
      return;
    }
    const positions = this.#positions.get(digest);
    if (positions === undefined) this.#positions.set(digest, [id]);
    else positions.push(id);
  }
}

/** One call under way per key. A failure is not remembered. */
export function oneFlight<Key, Value>(
  flights: Map<Key, Promise<Value>>,
  key: Key,
  start: () => Promise<Value>,
): Promise<Value> {
  const known = flights.get(key);
  if (known !== undefined) return known;
  const flight = start().finally(() => flights.delete(key));
  flights.set(key, flight);
  return flight;
}
