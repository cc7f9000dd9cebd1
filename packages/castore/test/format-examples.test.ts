import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { hexExample, hexExampleNames } from "../../../test/support/doc-examples.ts";
import { digestOf } from "../src/model/digest.ts";
import { decodeDirectory, encodeDirectory } from "../src/model/directory-codec.ts";
import { decodeNode, encodeNode } from "../src/model/node-codec.ts";
import { createNormalForm, createNormalizer, denormalize } from "../src/recipes/normal-form.ts";
import { vector, vectors } from "./vectors.ts";

const example = (name: string) => hexExample("format.md", name);

test("the examples of docs/format.md are these", () => {
  expect(hexExampleNames("format.md")).toEqual([
    "Directory",
    "Entry",
    "Script",
    "Script, normal form",
    "Overlap",
    "Overlap, normal form",
  ]);
});

test("Directory and Entry are those of snix's vectors", () => {
  const { rust, spec } = vector(vectors.directories, "DIRECTORY_COMPLICATED");
  const directory = decodeDirectory(example("Directory"));
  expect(encodeDirectory(directory).toString("hex")).toBe(rust.proto_hex);
  expect([directory.size, spec.size]).toEqual([8, 4]);
  const page = readFileSync(new URL("../../../docs/format.md", import.meta.url), "utf8");
  expect(page).toContain(`Its digest is \`${digestOf(example("Directory"))}\``);
  const node = decodeNode(example("Entry"));
  expect(node).toEqual({ type: "directory", digest: rust.digest_hex, size: 8 });
  expect(encodeNode(node).equals(example("Entry"))).toBe(true);
});

test.each([
  ["Script", ["0a8dmrps7qxa5g3r6xzmyanhhmdmi2cd"], [{ offset: 13, reference: 0 }]],
  ["Overlap", ["0".repeat(32), `${"0".repeat(31)}1`], [{ offset: 0, reference: 0 }]],
])("%s and its normal form", (name, references, occurrences) => {
  const pieces: Uint8Array[] = [];
  const normalForm = createNormalForm(references);
  const normalizer = createNormalizer(normalForm, (piece) => pieces.push(new Uint8Array(piece)));
  normalizer.push(example(name));
  normalizer.finish();
  const normal = Buffer.concat(pieces);
  expect(normal.toString("hex")).toBe(example(`${name}, normal form`).toString("hex"));
  expect(normalizer.occurrences).toEqual(occurrences);
  denormalize(normal, 0, occurrences, references);
  expect(normal.equals(example(name))).toBe(true);
});
