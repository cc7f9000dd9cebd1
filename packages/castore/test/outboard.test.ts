import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { digestOf, parseDigest } from "../src/model/digest.ts";
import { buildOutboard, outboardBytes, VerifiedGroups } from "../src/outboards/outboard.ts";

const GROUP = 16_384;

interface Vector {
  readonly size: number;
  readonly root: string;
  readonly outboard: string;
}

/** Of another implementation: the file names it, and how the blobs are made. */
const { outboards: vectors }: { outboards: Vector[] } = JSON.parse(
  readFileSync(new URL("../../../test/vectors/outboards.json", import.meta.url), "utf8"),
);
const blobOf = (size: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + size) % 251));

describe("an outboard", () => {
  it.each(vectors)("of $size bytes is that of another implementation", async (vector) => {
    const blob = blobOf(vector.size);
    expect(digestOf(blob)).toBe(vector.root);
    for (const cut of [blob.byteLength, 1_000, 70_001]) {
      const pieces: Buffer[] = [];
      for (let at = 0; at < blob.byteLength; at += cut) pieces.push(blob.subarray(at, at + cut));
      expect(Buffer.from(await buildOutboard(pieces)).toString("hex")).toBe(vector.outboard);
    }
    expect(outboardBytes(vector.size)).toBe(vector.outboard.length / 2);
  });

  it.each(vectors)("lets each group of $size bytes be verified, and no other bytes", (vector) => {
    const { size } = vector;
    const blob = blobOf(size);
    const outboard = Buffer.from(vector.outboard, "hex");
    const groups = new VerifiedGroups(parseDigest(vector.root), size, outboard);
    groups.verify(0, blob);
    for (let start = 0; start < size; start += GROUP) {
      const group = Buffer.from(blob.subarray(start, start + GROUP));
      groups.verify(start, group);
      group[group.byteLength - 1] = (group.at(-1) ?? 0) ^ 1;
      expect(() => groups.verify(start, group)).toThrow(/other bytes/);
      if (start > 0) expect(() => groups.verify(start - GROUP, group)).toThrow(/other bytes/);
      if (group.byteLength > 1) {
        expect(() => groups.verify(start, group.subarray(0, -1))).toThrow(/other bytes/);
      }
    }
  });

  it("of which one bit is wrong, or that is not all there, is refused", () => {
    for (const { size, root, outboard } of vectors) {
      const digest = parseDigest(root);
      const bytes = Buffer.from(outboard, "hex");
      for (let at = 0; at < bytes.byteLength; at += 37) {
        const changed = Buffer.from(bytes);
        changed[at] = (changed[at] ?? 0) ^ 4;
        expect(() => new VerifiedGroups(digest, size, changed)).toThrow(/outboard of blob/);
      }
      const more = Buffer.concat([bytes, Buffer.alloc(64)]);
      expect(() => new VerifiedGroups(digest, size, more)).toThrow(/bytes, want/);
      if (bytes.byteLength > 0) {
        const less = bytes.subarray(64);
        expect(() => new VerifiedGroups(digest, size, less)).toThrow(/bytes, want/);
      }
    }
  });
});
