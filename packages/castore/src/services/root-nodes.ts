import type { Node } from "../model/node.ts";
import type { PathComponent } from "../model/path-component.ts";
import type { CallOptions } from "../streams/byte-source.ts";

/** What a name in a mount's root stands for. */
export interface RootNode {
  readonly node: Node;
  /**
   * Whether directories and contents below may have to be fetched, piece by piece, when they are
   * read. False says that all of them are at hand.
   */
  readonly lazy: boolean;
  /**
   * Whether the name keeps this node for as long as it exists, so that the answer may be cached
   * until a change is told. A root that may still turn out not to be trusted is not final.
   */
  readonly final: boolean;
}

/** A name and what it stands for. */
export interface RootEntry extends RootNode {
  readonly name: PathComponent;
}

/** A name that came or went, or means another node than before. */
export interface RootChange {
  readonly name: PathComponent;
  /** What it stands for now; undefined where it is gone. */
  readonly root: RootNode | undefined;
}

/**
 * Named root nodes: all that a mount knows of a store. Everything may be called concurrently.
 * Every implementation passes test/root-nodes-suite.ts.
 */
export interface RootNodes {
  /**
   * What `name` stands for, undefined where it is absent. May fetch what it takes to know that: a
   * root that cannot be used lazily resolves once all of it is at hand and verified. Rejects
   * UNAVAILABLE where nobody can tell now; such a failure is not remembered.
   */
  get(name: PathComponent, options?: CallOptions): Promise<RootNode | undefined>;
  /** The names that are known without fetching anything, each once, in no particular order. */
  list(options?: CallOptions): AsyncIterable<RootEntry>;
  /**
   * `names` and every name they need, directly or not, each once. Rejects INCOMPLETE where one of
   * them is absent.
   */
  closure(
    names: readonly PathComponent[],
    options?: CallOptions,
  ): Promise<readonly PathComponent[]>;
  /**
   * What changes in `list` from the first `next()` on, until the signal aborts, which ends the
   * iteration without an error. Changes of one name come in order; a receiver that is behind may
   * miss all but the last.
   */
  changes(options?: CallOptions): AsyncIterable<RootChange>;
  /**
   * Keeps what these names stand for from being collected for as long as the owner of this object
   * says. Idempotent. Resolves once that is durable; a name that is absent is passed over.
   */
  hold(names: readonly PathComponent[], options?: CallOptions): Promise<void>;
}
