import type { Node } from "../model/node.ts";

/** What keeps root records and nodes from being collected, apart from their use. */
export interface Pin {
  /** 1..200 printable ASCII characters. */
  readonly name: string;
  /** Keys of root records, which stay with all they reference; absent ones are passed over. */
  readonly keys: readonly string[];
  /** Nodes that stay with all below them. */
  readonly nodes: readonly Node[];
  /** The pin goes when it is this old. Clocks that jump do not matter until the next boot. */
  readonly ttlMs?: number | undefined;
  /** The pin goes once `path` is no longer a symlink with this target, as Nix's indirect roots. */
  readonly link?: { readonly path: string; readonly target: string } | undefined;
  /** The pin goes with the next boot, as mounts do. */
  readonly untilReboot?: boolean | undefined;
}

/** The pins of a store. */
export interface PinStore {
  /** Durable when resolved. Replaces the pin of this name, and its age begins anew. */
  put(pin: Pin): Promise<void>;
  delete(name: string): Promise<boolean>;
  /** Pins that hold, in order of name. */
  list(): AsyncIterable<Pin>;
}
