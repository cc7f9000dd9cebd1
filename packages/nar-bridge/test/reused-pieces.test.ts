import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalStore, openLocalStore, PiecePool, POOLED_PIECE_BYTES } from "@castore/castore";
import { afterEach, beforeEach, expect, it } from "vitest";
import { ingestNar } from "../src/nar/nar-ingest.ts";
import { renderNar } from "../src/nar/nar-render.ts";
import { directory, encodeNar, file } from "./nar-fixture.ts";

let path: string;
let store: LocalStore;
beforeEach(async () => {
  path = mkdtempSync(join(tmpdir(), "castore-pieces-"));
  store = await openLocalStore({ path: join(path, "store"), create: true });
});
afterEach(async () => {
  await store.close();
  rmSync(path, { recursive: true });
});

const contents = createHash("shake256", { outputLength: 6_000_000 }).update("nar").digest();
const nar = encodeNar(
  directory({ a: file("a"), b: file(contents), c: file(contents.subarray(9)), d: file("d") }),
);

/** A pool whose pieces are overwritten as soon as they are given back, and what it gave out. */
function watchedPool() {
  const pool = new PiecePool();
  const memory = new Set<ArrayBufferLike>();
  return {
    memory,
    take(bytes: Uint8Array): Buffer {
      const piece = pool.take(bytes.byteLength);
      memory.add(piece.buffer);
      piece.set(bytes);
      return piece;
    },
    give(piece: Uint8Array): void {
      piece.fill(0);
      pool.give(piece);
    },
  };
}

it("a NAR is taken in and rendered with memory that is used again", async () => {
  const read = watchedPool();
  const pieces = function* () {
    for (let at = 0; at < nar.length; at += POOLED_PIECE_BYTES) {
      yield read.take(nar.subarray(at, at + POOLED_PIECE_BYTES));
    }
  };
  const options = { queuedBytesMax: 1 << 20, release: read.give };
  const { node } = await ingestNar(pieces(), store, options);
  expect(read.memory.size).toBeLessThan(nar.length / POOLED_PIECE_BYTES / 2);

  const pool = new PiecePool();
  const hash = createHash("sha256");
  const memory = new Set<ArrayBufferLike>();
  let size = 0;
  for await (const piece of renderNar(node, store, { pool })) {
    hash.update(piece);
    size += piece.byteLength;
    memory.add(piece.buffer);
    piece.fill(0);
    pool.give(piece);
  }
  expect(size).toBe(nar.length);
  expect(hash.digest()).toEqual(createHash("sha256").update(nar).digest());
  expect(memory.size).toBeLessThan(nar.length / POOLED_PIECE_BYTES / 2);
});
