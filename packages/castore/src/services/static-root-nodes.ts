import { CastoreError } from "../castore-error.ts";
import type { Node } from "../model/node.ts";
import type { PathComponent } from "../model/path-component.ts";
import type { RootChange, RootEntry, RootNode, RootNodes } from "./root-nodes.ts";

export interface StaticRoot {
  readonly node: Node;
  readonly lazy?: boolean | undefined;
  readonly final?: boolean | undefined;
  /** Other names that this one needs. */
  readonly references?: readonly PathComponent[] | undefined;
}

/** RootNodes held in memory, which change only when told. */
export interface StaticRootNodes extends RootNodes {
  /** What `hold` was called with. */
  readonly held: ReadonlySet<PathComponent>;
  /** Adds or replaces a name, or removes it. */
  set(name: PathComponent, root: StaticRoot | undefined): void;
}

export function createStaticRootNodes(
  roots: Iterable<readonly [PathComponent, StaticRoot]> = [],
): StaticRootNodes {
  const byName = new Map(roots);
  const held = new Set<PathComponent>();
  const watchers = new Set<Watcher>();
  return {
    held,
    set(name, root) {
      if (root === undefined) byName.delete(name);
      else byName.set(name, root);
      for (const watcher of watchers) watcher.push(name);
    },
    async get(name) {
      return rootNodeOf(byName.get(name));
    },
    async *list(options) {
      for (const [name, root] of [...byName]) {
        options?.signal?.throwIfAborted();
        const entry: RootEntry = { name, ...rootNodeOf(root) };
        yield entry;
      }
    },
    async closure(names) {
      const closure = new Set<PathComponent>(names);
      for (const name of closure) {
        const root = byName.get(name);
        if (root === undefined) throw new CastoreError("INCOMPLETE", `root ${name}: absent`);
        for (const reference of root.references ?? []) closure.add(reference);
      }
      return [...closure];
    },
    async *changes(options) {
      const watcher = new Watcher();
      watchers.add(watcher);
      const end = () => watcher.end();
      options?.signal?.addEventListener("abort", end, { once: true });
      if (options?.signal?.aborted) end();
      try {
        for (let name = await watcher.next(); name !== undefined; name = await watcher.next()) {
          const change: RootChange = { name, root: rootNodeOf(byName.get(name)) };
          yield change;
        }
      } finally {
        watchers.delete(watcher);
        options?.signal?.removeEventListener("abort", end);
      }
    },
    async hold(names) {
      for (const name of names) if (byName.has(name)) held.add(name);
    },
  };
}

function rootNodeOf(root: StaticRoot): RootNode;
function rootNodeOf(root: StaticRoot | undefined): RootNode | undefined;
function rootNodeOf(root: StaticRoot | undefined): RootNode | undefined {
  if (root === undefined) return undefined;
  return { node: root.node, lazy: root.lazy ?? false, final: root.final ?? true };
}

/** Names that changed and were not yet told to one receiver: at most one of each. */
class Watcher {
  readonly #names = new Set<PathComponent>();
  #ended = false;
  #wake: (() => void) | undefined;

  push(name: PathComponent): void {
    this.#names.delete(name);
    this.#names.add(name);
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async next(): Promise<PathComponent | undefined> {
    while (this.#names.size === 0 && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    if (this.#ended) return undefined;
    const [name] = this.#names;
    if (name !== undefined) this.#names.delete(name);
    return name;
  }
}
