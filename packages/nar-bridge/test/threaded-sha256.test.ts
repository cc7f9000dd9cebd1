import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { createThreadedSha256, RING_SLOT_BYTES, RING_SLOTS } from "../src/nar/threaded-sha256.ts";

const RING = RING_SLOTS * RING_SLOT_BYTES;

function expectHash(bytes: Uint8Array, pieceBytes: number): void {
  const hash = createThreadedSha256();
  for (let at = 0; at < bytes.byteLength; at += pieceBytes) {
    // What was added may change at once.
    const piece = Buffer.from(bytes.subarray(at, at + pieceBytes));
    hash.update(piece);
    piece.fill(0);
  }
  const want = createHash("sha256").update(bytes).digest("hex");
  expect(hash.digest().toString("hex")).toBe(want);
}

test("what fits into the ring, and what does not, has its SHA-256", () => {
  const bytes = Buffer.alloc(3 * RING);
  for (let at = 0; at < bytes.byteLength; at += 1024) bytes.writeUInt32LE(at, at);
  const sizes = [0, 1, RING_SLOT_BYTES, RING - RING_SLOT_BYTES, RING - 1, RING, RING + 1, 3 * RING];
  for (const size of sizes) expectHash(bytes.subarray(0, size), 300_000);
  expectHash(bytes.subarray(0, RING + 12_345), RING_SLOT_BYTES);
  expectHash(bytes, bytes.byteLength);
});
