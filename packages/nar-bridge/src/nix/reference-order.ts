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
