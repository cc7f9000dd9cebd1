import type { StoreHash } from "./store-path.ts";

/** `roots` and all they refer to, each once; what is referred to stands first. */
export function leavesFirst(
  roots: readonly StoreHash[],
  references: ReadonlyMap<StoreHash, readonly StoreHash[]>,
): StoreHash[] {
  const order = new Set<StoreHash>();
  const entered = new Set<StoreHash>();
  const stack = roots.map((storeHash) => ({ storeHash, isLeft: false }));
  for (let top = stack.pop(); top !== undefined; top = stack.pop()) {
    const { storeHash, isLeft } = top;
    if (isLeft) {
      order.add(storeHash);
    } else if (!entered.has(storeHash)) {
      entered.add(storeHash);
      stack.push({ storeHash, isLeft: true });
      for (const reference of references.get(storeHash) ?? []) {
        stack.push({ storeHash: reference, isLeft: false });
      }
    }
  }
  return [...order];
}

/** A path whose references are to be there before it. */
export interface ReferringPath {
  readonly name: string;
  readonly references: readonly StoreHash[];
}

/**
 * `paths` in the order in which a Nix that substitutes one at a time asks for them: of those whose
 * references among them are there the first by name. Without those that refer to each other.
 */
export function substitutionOrder(paths: ReadonlyMap<StoreHash, ReferringPath>): StoreHash[] {
  const missing = new Map<StoreHash, number>();
  const referrers = new Map<StoreHash, StoreHash[]>();
  for (const [storeHash, { references }] of paths) {
    const others = new Set(references.filter((it) => it !== storeHash && paths.has(it)));
    missing.set(storeHash, others.size);
    for (const reference of others) {
      const known = referrers.get(reference);
      if (known === undefined) referrers.set(reference, [storeHash]);
      else known.push(storeHash);
    }
  }
  const nameOf = (storeHash: StoreHash) => paths.get(storeHash)?.name ?? "";
  /** The last is the first by name. */
  const ready: StoreHash[] = [];
  const add = (storeHash: StoreHash) => {
    let [low, high] = [0, ready.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (nameOf(ready[middle] ?? storeHash) > nameOf(storeHash)) low = middle + 1;
      else high = middle;
    }
    ready.splice(low, 0, storeHash);
  };
  for (const [storeHash, count] of missing) if (count === 0) add(storeHash);
  const order: StoreHash[] = [];
  for (let next = ready.pop(); next !== undefined; next = ready.pop()) {
    order.push(next);
    for (const referrer of referrers.get(next) ?? []) {
      const count = (missing.get(referrer) ?? 0) - 1;
      missing.set(referrer, count);
      if (count === 0) add(referrer);
    }
  }
  return order;
}
