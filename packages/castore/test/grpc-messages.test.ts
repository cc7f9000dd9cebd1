import fc from "fast-check";
import protobuf from "protobufjs";
import { describe, expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { blobPutMethod, blobReadMethod, blobStatMethod } from "../src/grpc/grpc-blob-methods.ts";
import { directoryGetMethod, directoryPutMethod } from "../src/grpc/grpc-directory-methods.ts";
import { healthCheckMethod } from "../src/grpc/grpc-health.ts";
import { digestOf, EMPTY_DIGEST } from "../src/model/digest.ts";
import { vector, vectors } from "./vectors.ts";

const hello = Buffer.from("8 bytes.");

describe("messages", () => {
  const load = (file: string): protobuf.Root =>
    new protobuf.Root().loadSync(new URL(`../../../proto/${file}`, import.meta.url).pathname);

  test.each(Object.entries(vectors.stat_blob_responses))("StatBlobResponse %s", (_, expected) => {
    const chunks = expected.chunks ?? [];
    const { encode, decode } = blobStatMethod.response;
    expect(decode(Buffer.from(expected.proto_hex, "hex"))).toEqual(chunks);
    expect(encode(decode(Buffer.from(expected.proto_hex, "hex"))).toString("hex")).toBe(
      expected.proto_hex,
    );
  });

  test("what is written agrees with proto/ as protobufjs reads it, and the reverse", () => {
    const root = load("rpc_blobstore.proto");
    const type = (name: string) => root.lookupType(`snix.castore.v1.${name}`);
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.boolean(),
        fc.array(fc.tuple(fc.uint8Array({ minLength: 32, maxLength: 32 }), fc.maxSafeNat())),
        (digest, sendChunks, list) => {
          const stat = { digest: Buffer.from(digest), sendChunks };
          const message = type("StatBlobRequest");
          const encoded = blobStatMethod.request.encode(stat);
          expect(message.decode(encoded)).toMatchObject(stat);
          const theirs = message.encode({ ...stat, sendBao: true }).finish();
          expect(blobStatMethod.request.decode(theirs)).toEqual(stat);
          const chunks = list.map(([bytes, size]) => ({ digest: Buffer.from(bytes), size }));
          const response = type("StatBlobResponse").encode({ chunks }).finish();
          const decoded = blobStatMethod.response.decode(response);
          expect(decoded.map(({ size }) => size)).toEqual(list.map(([, size]) => size));
          expect(decoded.map((chunk) => chunk.digest)).toEqual(
            chunks.map((chunk) => chunk.digest.toString("hex")),
          );
          const data = type("BlobChunk").encode({ data: digest }).finish();
          expect(blobPutMethod.request.encode(digest).equals(data)).toBe(true);
        },
      ),
    );
  });

  test("directories and requests for them agree with proto/ too", () => {
    const root = load("rpc_directory.proto");
    const type = (name: string) => root.lookupType(`snix.castore.v1.${name}`);
    for (const [name, { rust, spec }] of Object.entries(vectors.directories)) {
      for (const { proto_hex: hex } of [rust, spec]) {
        const bytes = Buffer.from(hex, "hex");
        const theirs = type("Directory").encode(type("Directory").decode(bytes)).finish();
        const { encode, decode } = directoryGetMethod.response;
        expect(encode(decode(theirs)).toString("hex"), name).toBe(hex);
      }
    }
    const digest = Buffer.from(EMPTY_DIGEST, "hex");
    for (const request of [
      { digest, recursive: true },
      { digest: Buffer.alloc(0), recursive: false },
      { recursive: true },
    ]) {
      const theirs = type("GetDirectoryRequest").encode(request).finish();
      const ours = { digest: undefined, ...request };
      expect(directoryGetMethod.request.decode(theirs)).toEqual(ours);
      expect(directoryGetMethod.request.encode(ours).equals(theirs)).toBe(true);
    }
    const answer = type("PutDirectoryResponse").encode({ rootDigest: digest }).finish();
    expect(directoryPutMethod.response.decode(answer)).toBe(EMPTY_DIGEST);
  });

  test("any bytes are decoded or refused as INVALID", () => {
    const codecs = [
      blobStatMethod.request,
      blobStatMethod.response,
      blobReadMethod.request,
      blobPutMethod.response,
      directoryGetMethod.request,
      directoryGetMethod.response,
      healthCheckMethod.request,
    ];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        for (const codec of codecs) {
          try {
            codec.decode(bytes);
          } catch (error) {
            expect(isCastoreError(error, "INVALID"), `${error}`).toBe(true);
          }
        }
      }),
      { numRuns: 2_000 },
    );
  });

  test("a directory is read as snix reads it and keeps its canonical digest", () => {
    const { proto_hex: hex, digest_hex: digest } = vector(
      vectors.directories,
      "DIRECTORY_COMPLICATED",
    ).rust;
    const canonical = Buffer.from(hex, "hex");
    const unknown = Buffer.from([0x4a, 1, 0, 0x50, 0xff, 0x01, 0x5d, 1, 2, 3, 4, 0x61, ...hello]);
    // Lists may come in any order, as each is gathered on its own.
    const rotated = Buffer.concat([canonical.subarray(44), unknown, canonical.subarray(0, 44)]);
    const { encode, decode } = directoryGetMethod.response;
    expect(digestOf(encode(decode(rotated)))).toBe(digest);
    expect(() => decode(Buffer.from([0x4b]))).toThrow(/wire type 3/);
  });

  test("an entry's fields may come in any order, twice, and with others", () => {
    const { decode } = directoryGetMethod.response;
    const file = Buffer.concat([
      Buffer.from([0x20, 0x02, 0x18, 0x85, 0x00, 0x12, 32]),
      Buffer.from(EMPTY_DIGEST, "hex"),
      Buffer.from([0x0a, 1, 0x61, 0x0a, 1, 0x62, 0x28, 7]),
    ]);
    const node = { type: "file", digest: EMPTY_DIGEST, size: 5, executable: true };
    const directory = decode(Buffer.concat([Buffer.from([0x12, file.length]), file]));
    expect(directory.entries).toEqual([{ name: "b", node }]);
  });
});
