import { describe, expect, test } from "vitest";
import { PiecePool, POOLED_PIECE_BYTES } from "../src/streams/piece-pool.ts";

describe("PiecePool", () => {
  test("gives memory out again once it was given back, as a piece of any size", () => {
    const pool = new PiecePool();
    const first = pool.take(POOLED_PIECE_BYTES);
    const second = pool.take(7);
    expect(second.buffer).not.toBe(first.buffer);
    expect(second).toHaveLength(7);
    pool.give(first.subarray(3, 9));
    const third = pool.take(POOLED_PIECE_BYTES);
    expect(third.buffer).toBe(first.buffer);
    expect(third).toHaveLength(POOLED_PIECE_BYTES);
  });

  test("leaves alone what it did not give out, or has back already", () => {
    const pool = new PiecePool();
    const piece = pool.take(1);
    pool.give(new Uint8Array(POOLED_PIECE_BYTES));
    pool.give(piece);
    pool.give(piece);
    expect(pool.take(1).buffer).toBe(piece.buffer);
    expect(pool.take(1).buffer).not.toBe(piece.buffer);
  });

  test("keeps no more than eight free pieces", () => {
    const pool = new PiecePool();
    const pieces = Array.from({ length: 20 }, () => pool.take(1));
    const memory = new Set(pieces.map(({ buffer }) => buffer));
    for (const piece of pieces) pool.give(piece);
    const again = Array.from({ length: 20 }, () => pool.take(1));
    expect(again.filter(({ buffer }) => memory.has(buffer))).toHaveLength(8);
  });
});
