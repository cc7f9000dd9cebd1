import { GarbageMarker } from "./garbage-marker.ts";
import { type StoreIndex, visitRows } from "./store-index.ts";
import { readCounter } from "./store-writes.ts";

/** A root record, and when it was last used in the store's own count. */
export interface UsedRoot {
  readonly key: string;
  readonly tick: number;
}

/** Which root records stay. */
export interface RootChoice {
  /** Everything that stays is marked in it. */
  readonly marker: GarbageMarker;
  readonly keys: readonly string[];
  readonly evict: readonly UsedRoot[];
}

export interface RootChoiceOptions {
  /** How much the records that stay may need, together with pins. */
  readonly sizeMax: number | undefined;
  readonly checkpoint: () => void;
}

/**
 * Marks pins, then root records, last used first, each with all it references. The first that does
 * not fit, and those used before it, go unless something that stays references them.
 */
export function chooseRoots(index: StoreIndex, options: RootChoiceOptions): RootChoice {
  const roots = rootsByUse(index);
  const { sizeMax = Number.POSITIVE_INFINITY, checkpoint } = options;
  const count = options.sizeMax !== undefined;
  let marker = markPins(index, new GarbageMarker(index, { count, checkpoint }));
  let fitting = 0;
  for (const { key } of roots) {
    marker.markRoot(key);
    if (marker.bytes > sizeMax) break;
    fitting++;
  }
  if (fitting < roots.length) {
    // The last one marked is not to stay, but what it alone needs cannot be told any more.
    marker = markPins(index, new GarbageMarker(index, { checkpoint }));
    for (const { key } of roots.slice(0, fitting)) marker.markRoot(key);
  }
  const evict = roots.filter(({ key }) => !marker.keys.has(key));
  return { marker, keys: [...marker.keys], evict };
}

function rootsByUse({ rows }: StoreIndex): UsedRoot[] {
  const roots: UsedRoot[] = [];
  visitRows(rows.roots, {}, (key) => {
    roots.push({ key: key.toString("latin1"), tick: readCounter(rows.used, key) });
    return true;
  });
  return roots.sort((a, b) => b.tick - a.tick);
}

function markPins(index: StoreIndex, marker: GarbageMarker): GarbageMarker {
  const pins: (readonly [string, Buffer])[] = [];
  visitRows(index.rows.pins, {}, (key, row) => {
    pins.push([key.toString("latin1"), Buffer.from(row)]);
    return true;
  });
  for (const [name, row] of pins) marker.markPin(name, row);
  return marker;
}
