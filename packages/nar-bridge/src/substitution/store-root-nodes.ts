import { setTimeout } from "node:timers/promises";
import {
  type CallOptions,
  CastoreError,
  type LocalStore,
  type PathComponent,
  pathComponentOfText,
  type RootChange,
  type RootEntry,
  type RootNode,
  type RootNodes,
} from "@castore/castore";
import {
  parseStoreHash,
  type StoreHash,
  type StorePath,
  storePathFault,
  storePathHash,
} from "../nix/store-path.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import type { StoredPathInfo } from "../path-infos/stored-path-info.ts";
import type { LazyPaths } from "./lazy-paths.ts";
import type { Substituter } from "./substituter.ts";

/** How often the local store is looked at for what other processes put there. */
const CHANGES_POLL_MS = 2_000;

export interface StoreRootNodesOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  /** Where paths come from that the local store does not have; without it they are absent. */
  readonly substituter?: Pick<Substituter, "narInfo" | "substitute"> | undefined;
  /** Paths that may be used before they are here; without it none is. */
  readonly lazyPaths?: Pick<LazyPaths, "vouched" | "use"> | undefined;
  /** The name of the pin that holds what is held, until `release` or the next boot. */
  readonly pin: string;
}

export interface StoreRootNodes extends RootNodes {
  /** Lets go of all that was held. */
  release(): Promise<void>;
}

/**
 * The store paths of a local store, and of upstreams, as the names of a mount. A name that is no
 * store path is absent without a question to anyone; so is one that differs from the path which its
 * hash stands for. A path that is not in the local store, and whose root nobody vouches for, is
 * substituted whole by `get`.
 */
export function createStoreRootNodes(options: StoreRootNodesOptions): StoreRootNodes {
  const { store, pathInfos, substituter, lazyPaths } = options;
  const holds = new Holds(options);

  async function referencesOf(name: string, callOptions: CallOptions): Promise<readonly string[]> {
    const storeHash = storeHashOf(name);
    if (storeHash !== undefined) {
      const found =
        (await pathInfos.get(storeHash, callOptions)) ??
        (await substituter?.narInfo(storeHash, callOptions));
      if (found?.storePath === name) return found.references;
    }
    throw new CastoreError("INCOMPLETE", `store path ${name}: absent`);
  }

  return {
    async get(name, callOptions = {}) {
      const storeHash = storeHashOf(name);
      if (storeHash === undefined) return undefined;
      const stored = await pathInfos.getStored(storeHash, callOptions);
      if (stored !== undefined) {
        lazyPaths?.use(stored);
        return nameOf(stored.pathInfo.storePath) === name ? rootNodeOf(stored) : undefined;
      }
      const narInfo = await substituter?.narInfo(storeHash, callOptions);
      if (substituter === undefined || narInfo === undefined) return undefined;
      if (nameOf(narInfo.storePath) !== name) return undefined;
      const vouched = await lazyPaths?.vouched(storeHash, callOptions);
      if (vouched !== undefined) return { node: vouched.node, lazy: true, final: false };
      const signal = callOptions.signal ?? new AbortController().signal;
      using _lease = store.lease();
      const { pathInfo } = await substituter.substitute(storeHash, { signal });
      return { node: pathInfo.node, lazy: false, final: true };
    },
    async *list(callOptions) {
      for await (const stored of pathInfos.listStored(callOptions)) {
        yield { name: nameOf(stored.pathInfo.storePath), ...rootNodeOf(stored) };
      }
    },
    async closure(names, callOptions = {}) {
      const closure = new Set<string>(names);
      for (const name of closure) {
        for (const reference of await referencesOf(name, callOptions)) closure.add(reference);
      }
      return [...closure].map((name) => pathComponentOfText(name));
    },
    async *changes({ signal } = {}) {
      let keys = await keysOf(store);
      let known = await storedByKey(pathInfos);
      while (await untilNextPoll(signal)) {
        const nowKeys = await keysOf(store);
        if (isSame(keys, nowKeys)) continue;
        const now = await storedByKey(pathInfos);
        yield* differences(known, now);
        known = now;
        keys = nowKeys;
      }
    },
    async hold(names) {
      for (const name of names) {
        const storeHash = lazyPaths && storeHashOf(name);
        const stored = storeHash && (await pathInfos.getStored(storeHash));
        if (stored) lazyPaths.use(stored);
      }
      await holds.add(names);
    },
    release: () => holds.release(),
  };
}

async function storedByKey(
  pathInfos: LocalPathInfoService,
): Promise<ReadonlyMap<string, RootEntry>> {
  const entries = new Map<string, RootEntry>();
  for await (const stored of pathInfos.listStored()) {
    const { storePath } = stored.pathInfo;
    entries.set(storePathHash(storePath), { name: nameOf(storePath), ...rootNodeOf(stored) });
  }
  return entries;
}

async function keysOf(store: LocalStore): Promise<ReadonlySet<string>> {
  const keys = new Set<string>();
  for await (const { key } of store.roots.list()) keys.add(key);
  return keys;
}

function isSame(before: ReadonlySet<string>, now: ReadonlySet<string>): boolean {
  if (before.size !== now.size) return false;
  for (const key of now) if (!before.has(key)) return false;
  return true;
}

function* differences(
  before: ReadonlyMap<string, RootEntry>,
  now: ReadonlyMap<string, RootEntry>,
): Generator<RootChange> {
  for (const [key, { name }] of before) if (!now.has(key)) yield { name, root: undefined };
  for (const [key, { name, ...root }] of now) if (!before.has(key)) yield { name, root };
}

/** False once the signal has aborted. */
async function untilNextPoll(signal: AbortSignal | undefined): Promise<boolean> {
  try {
    await setTimeout(CHANGES_POLL_MS, undefined, { signal, ref: false });
    return true;
  } catch {
    return false;
  }
}

/** The pin that grows with what is held: one write for all that comes while one is under way. */
class Holds {
  readonly #store: LocalStore;
  readonly #pathInfos: LocalPathInfoService;
  readonly #pin: string;
  readonly #keys = new Set<string>();
  #writing: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  constructor({ store, pathInfos, pin }: StoreRootNodesOptions) {
    this.#store = store;
    this.#pathInfos = pathInfos;
    this.#pin = pin;
  }

  async add(names: readonly PathComponent[]): Promise<void> {
    const before = this.#keys.size;
    for (const name of names) {
      const storeHash = storeHashOf(name);
      if (storeHash === undefined || this.#keys.has(storeHash)) continue;
      if ((await this.#pathInfos.get(storeHash)) !== undefined) this.#keys.add(storeHash);
    }
    if (this.#keys.size > before) await this.#write();
    else await this.#next;
  }

  async release(): Promise<void> {
    this.#keys.clear();
    await this.#writing.catch(() => {});
    await this.#store.pins.delete(this.#pin);
  }

  #write(): Promise<void> {
    this.#next ??= this.#writing
      .catch(() => {}) // told to those who waited for it
      .then(() => {
        this.#next = undefined;
        const keys = [...this.#keys];
        this.#writing = this.#store.pins.put({
          name: this.#pin,
          keys,
          nodes: [],
          untilReboot: true,
        });
        return this.#writing;
      });
    return this.#next;
  }
}

function storeHashOf(name: string): StoreHash | undefined {
  return storePathFault(name) === undefined ? parseStoreHash(name.slice(0, 32)) : undefined;
}

function nameOf(storePath: StorePath): PathComponent {
  return pathComponentOfText(storePath);
}

function rootNodeOf({ pathInfo, proof }: StoredPathInfo): RootNode {
  const isProven = proof.by === "rendered";
  return { node: pathInfo.node, lazy: !isProven, final: isProven };
}
