import { afterEach, describe, expect, test } from "vitest";
import { createBlobGrpcService } from "../src/grpc/grpc-blob-handlers.ts";
import { blobPutMethod, blobReadMethod, blobStatMethod } from "../src/grpc/grpc-blob-methods.ts";
import { createGrpcBlobService } from "../src/grpc/grpc-blob-service.ts";
import { openGrpcChannel } from "../src/grpc/grpc-channel.ts";
import { createDirectoryGrpcService } from "../src/grpc/grpc-directory-handlers.ts";
import { directoryGetMethod } from "../src/grpc/grpc-directory-methods.ts";
import { createGrpcDirectoryService } from "../src/grpc/grpc-directory-service.ts";
import {
  type GrpcService,
  receivingMethod,
  sendingMethod,
  unaryMethod,
} from "../src/grpc/grpc-handler.ts";
import { digestBytes, digestOf, EMPTY_DIGEST } from "../src/model/digest.ts";
import { directoryOf } from "../src/model/directory.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import type { BlobService } from "../src/services/blob-service.ts";
import { createMemoryBlobService } from "../src/services/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/services/memory-directory-service.ts";
import type { CallOptions } from "../src/streams/byte-source.ts";
import { join } from "./blob-service-suite.ts";
import { collect, deferred, type GrpcPair, grpcAddressOf, openGrpcPair } from "./grpc-fixture.ts";
import { blobVector, prngBytes } from "./vectors.ts";

const ABSENT = digestOf(Buffer.from("absent"));
const HELLO = blobVector("HELLOWORLD_BLOB");
const pairs: GrpcPair[] = [];
afterEach(async () => {
  for (const pair of pairs.splice(0)) await pair.close();
});

async function open(...args: Parameters<typeof openGrpcPair>): Promise<GrpcPair> {
  const pair = await openGrpcPair(...args);
  pairs.push(pair);
  return pair;
}

/** A server that answers as told, whatever was asked. */
function lyingServer(
  pieces: readonly Uint8Array[],
  chunks: { digest: typeof ABSENT; size: number }[] = [],
): GrpcService {
  return {
    name: "lying",
    methods: [
      unaryMethod(blobStatMethod, async () => chunks),
      sendingMethod(blobReadMethod, async function* () {
        yield* pieces;
      }),
      receivingMethod(blobPutMethod, async (messages) => {
        await collect(messages);
        return ABSENT;
      }),
    ],
  };
}

describe("the client against a server that lies", () => {
  const LARGE = prngBytes(2_000_000);
  const digest = digestOf(LARGE);
  const pieces = (bytes: Uint8Array) =>
    [0, 1, 2, 3, 4].map((i) => bytes.subarray(i * 500_000, (i + 1) * 500_000));

  test("wrong bytes of a small blob are never handed out", async () => {
    const { channel } = await open([lyingServer([Buffer.from("other")])]);
    const opened = createGrpcBlobService(channel).open(ABSENT);
    await expect(opened).rejects.toHaveProperty("code", "CORRUPT");
  });

  test("wrong, missing or surplus bytes of a large blob without chunks are found", async () => {
    const flipped = Buffer.from(LARGE);
    flipped[1_999_999] = (flipped[1_999_999] ?? 0) ^ 1;
    for (const bytes of [flipped, LARGE.subarray(1), Buffer.concat([LARGE, HELLO])]) {
      const { channel } = await open([lyingServer(pieces(bytes))]);
      const opened = createGrpcBlobService(channel).open(digest);
      await expect(opened).rejects.toHaveProperty("code", "CORRUPT");
    }
  });

  test.each([0, 600_000, 1_999_999, 2_000_001])(
    "a size of %i that is not the blob's is found before the last byte and before any range",
    async (claimed) => {
      const methods = [
        unaryMethod(blobStatMethod, async () => []),
        sendingMethod(blobReadMethod, async function* (_, { sendHeaders }) {
          sendHeaders({ "castore-blob-size": String(claimed) });
          yield* pieces(LARGE);
        }),
      ];
      const { channel } = await open([{ name: "lying", methods }]);
      for (const end of [10, undefined]) {
        let got = 0;
        const read = async () => {
          const reader = await createGrpcBlobService(channel).open(digest);
          for await (const piece of reader?.stream(0, end) ?? []) got += piece.byteLength;
        };
        await expect(read()).rejects.toHaveProperty("code", "CORRUPT");
        expect(got).toBeLessThan(end === undefined ? claimed || 1 : 1);
      }
    },
  );

  test("right chunks that make another blob are found before any range is read", async () => {
    const zeros = Buffer.alloc(600_000);
    const chunks = [zeros, zeros].map((bytes) => ({ digest: digestOf(bytes), size: bytes.length }));
    const { channel } = await open([
      lyingServer([zeros.subarray(0, 300_000), zeros.subarray(300_000)], chunks),
    ]);
    const reader = await createGrpcBlobService(channel).open(digest);
    expect(reader?.size).toBe(1_200_000);
    const range = join(reader?.stream(0, 10) ?? []);
    await expect(range).rejects.toHaveProperty("code", "CORRUPT");
    let got = 0;
    const whole = async () => {
      for await (const piece of reader?.stream() ?? []) got += piece.byteLength;
    };
    await expect(whole()).rejects.toHaveProperty("code", "CORRUPT");
    expect(got).toBeLessThan(1_200_000);
  });

  test("a chunk of no bytes or of too many in a list is refused", async () => {
    for (const size of [0, (4 << 20) + 1]) {
      const list = [ABSENT, digest].map((it) => ({ digest: it, size }));
      const { channel } = await open([lyingServer([], list)]);
      const chunks = createGrpcBlobService(channel).chunks(digest);
      await expect(chunks).rejects.toHaveProperty("code", "CORRUPT");
    }
  });

  test("a put whose answer names another digest is CORRUPT", async () => {
    const { channel } = await open([lyingServer([])]);
    const put = createGrpcBlobService(channel).put([new Uint8Array(HELLO)]);
    await expect(put).rejects.toHaveProperty("code", "CORRUPT");
  });

  test("directories that were not asked for, or too few, are refused", async () => {
    const name = pathComponentOfText("d");
    const child = directoryOf([
      { name, node: { type: "directory", digest: EMPTY_DIGEST, size: 0 } },
    ]);
    const method = sendingMethod(directoryGetMethod, async function* () {
      yield child;
    });
    const { channel } = await open([{ name: "lying", methods: [method] }]);
    const directories = createGrpcDirectoryService(channel);
    await expect(directories.get(ABSENT)).rejects.toHaveProperty("code", "CORRUPT");
    const other = collect(directories.getClosure(ABSENT));
    await expect(other).rejects.toHaveProperty("code", "CORRUPT");
    const root = await createMemoryDirectoryService().putClosure([directoryOf([]), child]);
    const cut = collect(directories.getClosure(root));
    await expect(cut).rejects.toHaveProperty("code", "INCOMPLETE");
  });
});

describe("cancellation and time", () => {
  /** Blobs whose methods wait for their signal and tell when it came. */
  const waiting = () => {
    const called = deferred<void>();
    const aborted = deferred<unknown>();
    const wait = (options?: CallOptions) =>
      new Promise<never>((_, reject) => {
        const { signal } = options ?? {};
        signal?.addEventListener("abort", () => {
          aborted.resolve(signal.reason);
          reject(signal.reason);
        });
        called.resolve();
      });
    const blobs: BlobService = {
      has: (_, options) => wait(options),
      open: (_, options) => wait(options),
      chunks: (_, options) => wait(options),
      put: (_, options) => wait(options),
    };
    return { blobs, called: called.promise, aborted: aborted.promise };
  };
  const reason = new Error("gone");

  test.each(["has", "open", "put"] as const)("%s: an abort reaches the server", async (method) => {
    const { blobs, called, aborted } = waiting();
    const { channel, errors } = await open([createBlobGrpcService(blobs)]);
    const remote = createGrpcBlobService(channel);
    const controller = new AbortController();
    const options = { signal: controller.signal };
    const call = method === "put" ? remote.put([], options) : remote[method](ABSENT, options);
    const rejected = expect(call).rejects.toBe(reason);
    await called;
    controller.abort(reason);
    await rejected;
    expect(await aborted).toBeInstanceOf(Error);
    expect(errors).toEqual([]);
  });

  test.each(["has", "open", "put"] as const)(
    "%s: a silent server is UNAVAILABLE",
    async (method) => {
      const { blobs, aborted } = waiting();
      const { channel } = await open([createBlobGrpcService(blobs)], "tcp", 100);
      const remote = createGrpcBlobService(channel);
      const call = method === "put" ? remote.put([]) : remote[method](ABSENT);
      await expect(call).rejects.toHaveProperty("code", "UNAVAILABLE");
      expect(await aborted).toBeInstanceOf(Error);
    },
  );

  test("a source that fails amid a put leaves the server without the blob", async () => {
    const ended = deferred<unknown>();
    const started = deferred<void>();
    const memory = createMemoryBlobService();
    const put: BlobService["put"] = (source, options) => {
      started.resolve();
      const result = memory.put(source, options);
      result.then(ended.resolve, ended.resolve);
      return result;
    };
    const { channel } = await open([createBlobGrpcService({ ...memory, put })]);
    const failing = async function* () {
      yield new Uint8Array(HELLO);
      await started.promise;
      throw reason;
    };
    await expect(createGrpcBlobService(channel).put(failing())).rejects.toBe(reason);
    expect(await ended.promise).toBeInstanceOf(Error);
    expect(await memory.has(digestOf(HELLO))).toBe(false);
  });

  test("leaving a stream early ends it on the server", async () => {
    const ended = deferred<void>();
    const endless = sendingMethod(blobReadMethod, async function* (_, { signal }) {
      try {
        while (!signal.aborted) yield Buffer.alloc(100_000);
      } finally {
        ended.resolve();
      }
    });
    const { channel } = await open([{ name: "endless", methods: [endless] }]);
    for await (const _ of channel.receive(blobReadMethod, digestBytes(ABSENT))) break;
    await ended.promise;
  });

  test("a message above 4 MiB is refused on both sides", async () => {
    const big = Buffer.alloc(4 << 20);
    const { channel } = await open([
      lyingServer([big]),
      createDirectoryGrpcService(createMemoryDirectoryService()),
    ]);
    const read = collect(channel.receive(blobReadMethod, Buffer.alloc(32)));
    await expect(read).rejects.toHaveProperty("code", "EXHAUSTED");
    const put = channel.send(blobPutMethod, [big]);
    await expect(put).rejects.toHaveProperty("code", "EXHAUSTED");
  });

  test("nothing listens: UNAVAILABLE, at once when asked to wait for the connection", async () => {
    const { server, channel } = await open([]);
    const target = channel.target;
    await server.close();
    await expect(createGrpcBlobService(channel).has(ABSENT)).rejects.toHaveProperty(
      "code",
      "UNAVAILABLE",
    );
    const address = { ...grpcAddressOf(target), waitConnect: true };
    const opening = openGrpcChannel(address, { timeoutMs: 200 });
    await expect(opening).rejects.toHaveProperty("code", "UNAVAILABLE");
  });

  test("a closed channel is CLOSED", async () => {
    const { channel } = await open([]);
    await channel.close();
    const has = createGrpcBlobService(channel).has(ABSENT);
    await expect(has).rejects.toHaveProperty("code", "CLOSED");
  });
});
