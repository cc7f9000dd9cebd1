import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createNarLayout } from "../src/nar/nar-layout.ts";
import {
  createNarListingBuilder,
  formatNarListing,
  parseNarListing,
} from "../src/nar/nar-listing.ts";
import { createNarReader } from "../src/nar/nar-reader.ts";
import { NAR_DEPTH_MAX } from "../src/nar/nar-token.ts";
import { directory, encodeNar, file, memoryServices, storeTree, type Tree } from "./nar-fixture.ts";
import { vectors } from "./vectors.ts";

function listingOf(nar: Buffer) {
  const builder = createNarListingBuilder();
  const reader = createNarReader(builder);
  reader.write(nar);
  reader.end();
  return builder.finish();
}

/** Names as they are typed, kept as bytes. */
const utf8 = (text: string) => Buffer.from(text, "utf8").toString("latin1");

const textTree: fc.Arbitrary<Tree> = fc
  .uniqueArray(
    fc
      .tuple(fc.string({ unit: "grapheme", minLength: 1, maxLength: 8 }), fc.boolean())
      .map(([text, executable]) => [utf8(text.replaceAll(/[\0/]/g, "_")), executable] as const)
      .filter(([name]) => name !== "." && name !== ".."),
    { selector: ([name]) => name, maxLength: 8 },
  )
  .map((names) =>
    directory(
      Object.fromEntries(
        names.flatMap(([name, executable]): [string, Tree][] => [
          [name, executable ? file(name, true) : { type: "symlink", target: name }],
          [`${name}.d`, directory({ [name]: file(name) })],
        ]),
      ),
    ),
  );

describe("formatNarListing", () => {
  it("formats every listing of the vectors, from the NAR alone", () => {
    const listed = Object.values(vectors.nars).filter(({ listing }) => listing !== undefined);
    expect(listed).toHaveLength(3);
    for (const { hex, listing } of listed) {
      expect(formatNarListing(listingOf(Buffer.from(hex, "hex")))).toBe(listing);
      expect(formatNarListing(parseNarListing(listing ?? ""))).toBe(listing);
    }
  });

  it("orders names by their bytes and keys by the alphabet", () => {
    const tree = directory({
      "10": file("a", true),
      "9": file(""),
      __proto__x: directory({}),
      [utf8("é\n")]: { type: "symlink", target: utf8('"ü') },
      z: file("z"),
    });
    expect(formatNarListing(listingOf(encodeNar(tree)))).toBe(
      '{"root":{"entries":{"10":{"executable":true,"narOffset":264,"size":1,"type":"regular"},' +
        '"9":{"narOffset":456,"size":0,"type":"regular"},' +
        '"__proto__x":{"entries":{},"type":"directory"},' +
        '"z":{"narOffset":816,"size":1,"type":"regular"},' +
        '"é\\n":{"target":"\\"ü","type":"symlink"}},"type":"directory"},"version":1}',
    );
  });

  it("is what parseNarListing reads, for any tree, from a NAR as from its layout", async () => {
    await fc.assert(
      fc.asyncProperty(textTree, async (tree) => {
        const listing = listingOf(encodeNar(tree));
        const services = memoryServices();
        const layout = await createNarLayout(await storeTree(tree, services), services);
        expect(layout.listing()).toEqual(listing);
        expect(parseNarListing(formatNarListing(listing))).toEqual(listing);
      }),
    );
  });

  it("rejects a name or a target that is not UTF-8 as UNSUPPORTED", () => {
    for (const tree of [
      directory({ "\xff": file("") }),
      directory({ a: { type: "symlink", target: "\xc3" } }),
    ]) {
      const listing = listingOf(encodeNar(tree));
      expect(() => formatNarListing(listing)).toThrow(
        expect.objectContaining({ code: "UNSUPPORTED" }),
      );
    }
  });

  it("rejects a tree that was not visited whole as INVALID", () => {
    expect(() => createNarListingBuilder().finish()).toThrow(
      expect.objectContaining({ code: "INVALID" }),
    );
  });
});

describe("parseNarListing", () => {
  it("takes what Nix leaves out", () => {
    const text = '{"version":1,"root":{"type":"regular","size":3}}';
    const root = { type: "regular", size: 3, executable: false, narOffset: undefined };
    expect(parseNarListing(text)).toEqual(root);
  });

  it.each([
    "",
    "[]",
    "{}",
    '{"root":{"type":"regular","size":1},"version":2}',
    '{"root":{"type":"regular","size":-1},"version":1}',
    '{"root":{"type":"regular","size":1.5},"version":1}',
    '{"root":{"type":"regular","size":1,"narOffset":"3"},"version":1}',
    '{"root":{"type":"regular","size":1,"executable":1},"version":1}',
    '{"root":{"type":"symlink"},"version":1}',
    '{"root":{"type":"symlink","target":""},"version":1}',
    '{"root":{"type":"directory"},"version":1}',
    '{"root":{"type":"directory","entries":[]},"version":1}',
    '{"root":{"type":"directory","entries":{"a/b":{"type":"regular","size":1}}},"version":1}',
    '{"root":{"type":"directory","entries":{"\\ud800":{"type":"regular","size":1}}},"version":1}',
    '{"root":{"type":"fifo"},"version":1}',
  ])("rejects %s as INVALID", (text) => {
    expect(() => parseNarListing(text)).toThrow(expect.objectContaining({ code: "INVALID" }));
  });

  it("rejects more than NAR_DEPTH_MAX directories within each other as INVALID", () => {
    const nested = (depth: number) => {
      const open = '{"type":"directory","entries":{"d":'.repeat(depth - 1);
      const inner = '{"type":"directory","entries":{}}';
      return `{"version":1,"root":${open}${inner}${"}}".repeat(depth - 1)}}`;
    };
    expect(parseNarListing(nested(NAR_DEPTH_MAX))).toMatchObject({ type: "directory" });
    expect(() => parseNarListing(nested(NAR_DEPTH_MAX + 1))).toThrow(
      expect.objectContaining({ code: "INVALID" }),
    );
  });
});
