import { isCastoreError } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createNarReader } from "../src/nar/nar-reader.ts";
import { NAR_DEPTH_MAX } from "../src/nar/nar-token.ts";
import {
  cutAt,
  directory,
  encodeNar,
  file,
  readTree,
  string,
  treeArbitrary,
} from "./nar-fixture.ts";
import { vectors } from "./vectors.ts";

const nars = Object.entries(vectors.nars);
const invalid = vectors.nars_invalid_derived;

/** The NAR of `depth` directories within each other. */
function nestedNar(depth: number): Buffer {
  const inner = ["entry", "(", "name", "d", "node", "(", "type", "directory"].map(string);
  const ends = Array.from({ length: 2 * depth - 1 }, () => string(")"));
  const outer = ["nix-archive-1", "(", "type", "directory"].map(string);
  return Buffer.concat([
    ...outer,
    ...Array(depth - 1)
      .fill(inner)
      .flat(),
    ...ends,
  ]);
}

/** What reading `bytes` throws. */
function faultOf(pieces: Iterable<Uint8Array>): unknown {
  try {
    readTree(pieces);
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("createNarReader", () => {
  it.each(nars)("reads %s of the vectors", (_name, { hex }) => {
    const nar = Buffer.from(hex, "hex");
    expect(encodeNar(readTree([nar])).equals(nar)).toBe(true);
  });

  it("rejects each of the 17 invalid NARs of the vectors as INVALID, cut anywhere", () => {
    expect(invalid).toHaveLength(17);
    for (const { name, hex } of invalid) {
      const nar =
        hex === undefined
          ? encodeNar({ type: "symlink", target: "a".repeat(4096) })
          : Buffer.from(hex, "hex");
      for (const pieces of [[nar], cutAt(nar, [...nar.keys()])]) {
        expect(faultOf(pieces), name).toMatchObject({ code: "INVALID" });
      }
    }
  });

  it("takes names of 255 bytes and targets of 4095, and not of one more", () => {
    for (const [name, ok] of [
      ["n".repeat(255), true],
      ["n".repeat(256), false],
    ] as const) {
      expect(faultOf([encodeNar(directory({ [name]: file("") }))]) === undefined).toBe(ok);
    }
    for (const [target, ok] of [
      ["t".repeat(4095), true],
      ["t".repeat(4096), false],
    ] as const) {
      expect(faultOf([encodeNar({ type: "symlink", target })]) === undefined).toBe(ok);
    }
  });

  it("rejects an end before the end at every byte, and a byte after it, as INVALID", () => {
    const nar = encodeNar(
      directory({ a: file("contents", true), b: { type: "symlink", target: "a" } }),
    );
    for (let length = 0; length < nar.length; length++) {
      expect(faultOf([nar.subarray(0, length)])).toMatchObject({ code: "INVALID" });
    }
    expect(faultOf([Buffer.concat([nar, Buffer.alloc(1)])])).toMatchObject({ code: "INVALID" });
    expect(faultOf([nar, Buffer.alloc(8)])).toMatchObject({ code: "INVALID" });
  });

  it("rejects a length of 2^53 or more as INVALID", () => {
    const nar = encodeNar(file(""));
    const at = nar.indexOf("contents") + 8;
    nar.writeBigUInt64LE(2n ** 53n, at);
    expect(faultOf([nar])).toMatchObject({ code: "INVALID" });
    nar.writeBigUInt64LE(2n ** 53n - 1n, at);
    const sizes: number[] = [];
    const nothing = () => undefined;
    const reader = createNarReader({
      openDirectory: nothing,
      closeDirectory: nothing,
      openFile: (_name, { size }) => void sizes.push(size),
      closeFile: nothing,
      symlink: nothing,
    });
    reader.write(nar.subarray(0, at + 8));
    expect(sizes).toEqual([2 ** 53 - 1]);
  });

  it("takes NAR_DEPTH_MAX directories within each other, and rejects one more as EXHAUSTED", () => {
    expect(faultOf([nestedNar(NAR_DEPTH_MAX)])).toBeUndefined();
    const fault = faultOf([nestedNar(NAR_DEPTH_MAX + 1)]);
    expect(fault).toMatchObject({ code: "EXHAUSTED" });
  });

  it("visits the same, however the NAR is cut", () => {
    fc.assert(
      fc.property(treeArbitrary, fc.array(fc.nat(), { maxLength: 30 }), (tree, places) => {
        const nar = encodeNar(tree);
        expect(readTree([nar])).toEqual(tree);
        expect(readTree(cutAt(nar, places))).toEqual(tree);
        expect(readTree(cutAt(nar, [...nar.keys()]))).toEqual(tree);
      }),
      { numRuns: 200 },
    );
  });

  it("tells where in the NAR the contents of each file begin", () => {
    fc.assert(
      fc.property(treeArbitrary, fc.array(fc.nat(), { maxLength: 30 }), (tree, places) => {
        const nar = encodeNar(tree);
        const got: Buffer[] = [];
        const want: Buffer[] = [];
        const nothing = () => undefined;
        const reader = createNarReader({
          openDirectory: nothing,
          closeDirectory: nothing,
          openFile(_name, { narOffset, size }) {
            got.push(Buffer.alloc(0));
            want.push(nar.subarray(narOffset, narOffset + size));
          },
          contents(bytes) {
            got.push(Buffer.concat([got.pop() ?? bytes, bytes]));
          },
          closeFile: nothing,
          symlink: nothing,
        });
        for (const piece of cutAt(nar, places)) reader.write(piece);
        reader.end();
        expect(reader.offset).toBe(nar.length);
        expect(got).toEqual(want);
      }),
    );
  });

  it("takes a changed NAR only where it is the NAR of another tree", () => {
    fc.assert(
      fc.property(treeArbitrary, fc.nat(), fc.nat(255), fc.nat(3), (tree, place, byte, kind) => {
        const nar = encodeNar(tree);
        const at = place % nar.length;
        const changed = [
          () => Buffer.concat([nar.subarray(0, at), Buffer.from([byte]), nar.subarray(at + 1)]),
          () => Buffer.concat([nar.subarray(0, at), Buffer.from([byte]), nar.subarray(at)]),
          () => Buffer.concat([nar.subarray(0, at), nar.subarray(at + 8)]),
          () => Buffer.concat([nar.subarray(0, at), nar.subarray(at - (at % 8))]),
        ][kind]?.();
        if (changed === undefined) throw new Error("no such change");
        try {
          expect(encodeNar(readTree([changed])).equals(changed)).toBe(true);
        } catch (error) {
          if (!isCastoreError(error, "INVALID")) throw error;
        }
      }),
      { numRuns: 2000 },
    );
  });

  it("hands on what the visitor throws", () => {
    const error = new Error("disk full");
    const fail = () => {
      throw error;
    };
    const reader = createNarReader({
      openDirectory: fail,
      closeDirectory: fail,
      openFile: fail,
      closeFile: fail,
      symlink: fail,
    });
    expect(() => reader.write(encodeNar(file("x")))).toThrow(error);
  });
});
