import fc from "fast-check";
import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { chunksOf } from "../src/chunking/chunker.ts";
import { digestOf, EMPTY_DIGEST } from "../src/model/digest.ts";
import { createBlobAnalyzer } from "../src/recipes/blob-analyzer.ts";
import {
  createNormalForm,
  createNormalizer,
  denormalize,
  type NormalForm,
  normalizeAt,
  OCCURRENCES_MAX,
  type Occurrence,
  REFERENCES_MAX,
} from "../src/recipes/normal-form.ts";
import { prngBytes } from "./vectors.ts";

const ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz";

function referenceOf(seed: number): string {
  return [...prngBytes(32, `reference ${seed}`)].map((byte) => ALPHABET[byte & 31]).join("");
}

/** The definition, word by word: leftmost first, none overlapping. */
function plainOccurrences(bytes: Buffer, references: readonly string[]): Occurrence[] {
  const occurrences: Occurrence[] = [];
  for (let offset = 0; offset + 32 <= bytes.length; ) {
    const reference = references.indexOf(bytes.toString("latin1", offset, offset + 32));
    if (reference >= 0) occurrences.push({ offset, reference });
    offset += reference >= 0 ? 32 : 1;
  }
  return occurrences;
}

function normalize(form: NormalForm, bytes: Uint8Array, pieceBytes: number) {
  const pieces: Uint8Array[] = [];
  const normalizer = createNormalizer(form, (piece) => pieces.push(new Uint8Array(piece)));
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    normalizer.push(bytes.subarray(at, at + pieceBytes));
  }
  normalizer.finish();
  return { normal: Buffer.concat(pieces), occurrences: normalizer.occurrences };
}

const references = [referenceOf(1), referenceOf(2), "0".repeat(32), `${"01".repeat(16)}`];
const form = createNormalForm(references);

/** Text in which references abut, overlap and nearly occur. */
const text = fc
  .array(
    fc.oneof(
      fc.constantFrom(...references),
      fc.constantFrom("e", "/nix/store/", "-", "0", "01", "1010", "\0", "é"),
      fc.constantFrom(...references.map((reference) => reference.slice(0, 31))),
      fc.constantFrom(...references.map((reference) => reference.slice(7))),
      fc.string(),
    ),
    { maxLength: 60 },
  )
  .map((parts) => Buffer.from(parts.join("")));

test("occurrences are the leftmost that do not overlap, across any pieces", () => {
  fc.assert(
    fc.property(text, fc.integer({ min: 1, max: 80 }), (bytes, pieceBytes) => {
      const original = Buffer.from(bytes);
      const { normal, occurrences } = normalize(form, bytes, pieceBytes);
      expect(bytes.equals(original)).toBe(true);
      expect(occurrences).toEqual(plainOccurrences(bytes, references));
      const want = Buffer.from(bytes);
      for (const { offset } of occurrences) want.fill("e", offset, offset + 32);
      expect(normal.equals(want)).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("denormalize() and normalizeAt() are right for every part of a blob", () => {
  fc.assert(
    fc.property(text, fc.nat(), fc.nat(), (bytes, a, b) => {
      const { normal, occurrences } = normalize(form, bytes, 1000);
      const [start, end] = [a % (bytes.length + 1), b % (bytes.length + 1)].sort((x, y) => x - y);
      const part = new Uint8Array(normal.subarray(start, end));
      denormalize(part, start ?? 0, occurrences, references);
      expect(Buffer.from(part).equals(bytes.subarray(start, end))).toBe(true);
      normalizeAt(part, start ?? 0, occurrences);
      expect(Buffer.from(part).equals(normal.subarray(start, end))).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test("an occurrence across the kernel's windows is found at every offset of the seam", () => {
  const filler = Buffer.alloc(262_144, "x");
  for (let shift = 0; shift <= 40; shift++) {
    const at = 262_144 - 36 + shift;
    const bytes = Buffer.concat([filler, filler]);
    bytes.write(references[0] ?? "", at, "latin1");
    const { occurrences } = normalize(form, bytes, 600_000);
    expect(occurrences).toEqual([{ offset: at, reference: 0 }]);
    expect(analyze(bytes, form, 100_000).occurrences).toEqual(occurrences);
  }
});

test("3,000 references are told apart", () => {
  const many = Array.from({ length: 3000 }, (_, i) => referenceOf(i));
  const bytes = Buffer.from(many.toReversed().join("-"));
  const { occurrences } = normalize(createNormalForm(many), bytes, 65_536);
  expect(occurrences).toHaveLength(3000);
  expect(occurrences[0]).toEqual({ offset: 0, reference: 2999 });
  expect(occurrences).toEqual(many.map((_, i) => ({ offset: 33 * i, reference: 2999 - i })));
});

test("no more than the limit of occurrences is replaced, the rest stays", () => {
  const reference = references[0] ?? "";
  const bytes = Buffer.from(reference.repeat(OCCURRENCES_MAX + 100));
  const { normal, occurrences } = normalize(form, bytes, 300_000);
  expect(occurrences).toHaveLength(OCCURRENCES_MAX);
  const limit = 32 * OCCURRENCES_MAX;
  expect(normal.subarray(0, limit).every((byte) => byte === 0x65)).toBe(true);
  expect(normal.subarray(limit).equals(bytes.subarray(limit))).toBe(true);
  expect(analyze(bytes, form, 1 << 30).occurrences).toHaveLength(OCCURRENCES_MAX);
});

test.each([
  ["a character that nixbase32 lacks", ["e".repeat(32)]],
  ["31 characters", ["0".repeat(31)]],
  ["33 characters", ["0".repeat(33)]],
  ["a trailing newline", [`${"0".repeat(31)}\n`]],
  ["one reference twice", ["0".repeat(32), "1".repeat(32), "0".repeat(32)]],
])("%s is refused", (_, list) => {
  expect(() => createNormalForm(list)).toThrow(
    expect.toSatisfy((e) => isCastoreError(e, "INVALID")),
  );
});

test("too many references are refused", () => {
  const list = Array.from({ length: REFERENCES_MAX + 1 }, (_, i) => `${i}`.padStart(32, "0"));
  const error = expect.toSatisfy((e) => isCastoreError(e, "EXHAUSTED"));
  expect(() => createNormalForm(list)).toThrow(error);
});

function analyze(bytes: Uint8Array, normalForm: NormalForm, pieceBytes: number) {
  const analyzer = createBlobAnalyzer(normalForm);
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    analyzer.push(bytes.subarray(at, at + pieceBytes));
  }
  return analyzer.finish();
}

async function plainChunks(normal: Uint8Array) {
  const chunks = [];
  for await (const chunk of chunksOf([normal])) {
    chunks.push({ digest: digestOf(chunk), size: chunk.byteLength });
  }
  return chunks;
}

test("one pass gives the blob's digest and its normal form's chunks", async () => {
  const bytes = prngBytes(2_500_000, "analyze");
  for (const at of [5, 262_130, 262_145, 400_000, 1_000_001, 2_499_968]) {
    bytes.write(references[at % 2] ?? "", at, "latin1");
  }
  for (const size of [0, 1, 31, 100_000, 262_143, 262_144, 262_145, 300_000, 600_000, 2_500_000]) {
    const part = bytes.subarray(0, size);
    const { normal, occurrences } = normalize(form, part, 50_000);
    const chunks = await plainChunks(normal);
    for (const pieceBytes of [1 << 30, 262_144, 65_537, 9_999]) {
      expect(analyze(part, form, pieceBytes)).toEqual({
        digest: digestOf(part),
        size,
        chunks: size === 0 ? [{ digest: EMPTY_DIGEST, size: 0 }] : chunks,
        occurrences,
      });
    }
  }
});

test("a small blob without occurrence is its own only chunk; with one, it is not", () => {
  const plain = Buffer.from("nothing to replace");
  const digest = digestOf(plain);
  expect(analyze(plain, form, 5).chunks).toEqual([{ digest, size: plain.length }]);
  const referring = Buffer.from(`/nix/store/${references[1]}-name`);
  const { chunks, occurrences } = analyze(referring, form, 5);
  expect(occurrences).toEqual([{ offset: 11, reference: 1 }]);
  const normal = Buffer.from(`/nix/store/${"e".repeat(32)}-name`);
  expect(chunks).toEqual([{ digest: digestOf(normal), size: normal.length }]);
});

test("streams that share a NormalForm do not disturb each other", async () => {
  const blobs = [1, 2, 3].map((seed) => {
    const bytes = prngBytes(1_200_000, `shared ${seed}`);
    bytes.write(references[seed % 2] ?? "", 262_140, "latin1");
    return bytes;
  });
  const shared = createNormalForm(references);
  const analyzers = blobs.map(() => createBlobAnalyzer(shared));
  for (let at = 0; at < 1_200_000; at += 70_001) {
    analyzers.forEach((analyzer, i) => {
      analyzer.push(blobs[i]?.subarray(at, at + 70_001) ?? new Uint8Array(0));
    });
  }
  const apart = blobs.map((bytes) => analyze(bytes, createNormalForm(references), 1 << 30));
  expect(analyzers.map((analyzer) => analyzer.finish())).toEqual(apart);
});
