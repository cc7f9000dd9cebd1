import { type BlobReader, type BlobService, digestOf } from "@castore/castore";
import { describe, expect, it } from "vitest";
import { patientBlobs } from "../src/patient-blobs.ts";

const bytes = Buffer.from("contents of a blob");
const digest = digestOf(bytes);

/** Gives `bytes`, but breaks off after `upTo` of them in each of the first `failures` tries. */
function failing(failures: number, upTo: number) {
  let tries = 0;
  const blobs: Pick<BlobService, "open"> = {
    async open(): Promise<BlobReader | undefined> {
      tries++;
      if (tries > failures + 1) throw new Error("asked once more than need be");
      if (upTo === 0 && tries <= failures) return undefined;
      const isLast = tries > failures;
      return {
        size: bytes.length,
        async *stream(start = 0, end = bytes.length) {
          if (isLast) yield bytes.subarray(start, end);
          else {
            yield bytes.subarray(start, start + upTo);
            throw new Error("breaks off");
          }
        },
        async close() {},
        async [Symbol.asyncDispose]() {},
      };
    },
  };
  return { blobs, tries: () => tries };
}

async function read(blobs: Pick<BlobService, "open">, signal?: AbortSignal): Promise<string> {
  const reader = await blobs.open(digest, { size: bytes.length });
  const pieces: Uint8Array[] = [];
  for await (const piece of reader?.stream(0, bytes.length, { signal }) ?? []) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

describe("patient blobs", () => {
  it("ask again for what is absent, until it is there", async () => {
    const { blobs, tries } = failing(2, 0);
    const lines: string[] = [];
    expect(await read(patientBlobs(blobs, (line) => lines.push(line)))).toBe(bytes.toString());
    expect(tries()).toBe(3);
    expect(lines.length).toBe(1);
  });

  it("go on where a stream broke off", async () => {
    const { blobs, tries } = failing(2, 4);
    expect(await read(patientBlobs(blobs, () => {}))).toBe(bytes.toString());
    expect(tries()).toBe(3);
  });

  it("end with their signal", async () => {
    const { blobs } = failing(9, 0);
    const signal = AbortSignal.timeout(50);
    await expect(
      read(
        patientBlobs(blobs, () => {}),
        signal,
      ),
    ).rejects.toThrow(/abort|timeout/);
  });
});
