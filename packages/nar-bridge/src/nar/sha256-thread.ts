import { createHash } from "node:crypto";
import { workerData } from "node:worker_threads";
import {
  ENDED,
  FILLED,
  HASHED,
  RING_SLOT_BYTES,
  RING_SLOTS,
  type Sha256Ring,
  SIZES,
} from "./threaded-sha256.ts";

const ring: Sha256Ring = workerData;
const slots = new Uint8Array(ring.slots);
const state = new Int32Array(ring.state);
const hash = createHash("sha256");

for (let hashed = 0; ; ) {
  Atomics.wait(state, FILLED, hashed);
  const slot = hashed % RING_SLOTS;
  const size = state[SIZES + slot] ?? 0;
  if (size === 0) break;
  hash.update(slots.subarray(slot * RING_SLOT_BYTES, slot * RING_SLOT_BYTES + size));
  Atomics.store(state, HASHED, ++hashed);
  Atomics.notify(state, HASHED);
}
new Uint8Array(ring.hash).set(hash.digest());
Atomics.store(state, ENDED, 1);
Atomics.notify(state, ENDED);
