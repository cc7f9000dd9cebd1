import { gzipSync } from "node:zlib";
import * as fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import type { CacheFault } from "../../../test/support/cache-fault.ts";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { StandInCache, type StandInObject } from "../../../test/support/stand-in-cache.ts";
import { parseCacheUrl } from "../src/upstream/admission.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import {
  DOWNLOAD_RETRIES_MAX,
  type DownloadOptions,
  download,
  RETRY_DELAY_MS,
} from "../src/upstream/resumable-download.ts";

const body = Buffer.alloc(300_000, "0123456789abcdef!");
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

interface Outcome {
  readonly bytes: Buffer;
  readonly error: unknown;
  /** Waits before retries. */
  readonly waits: readonly number[];
}

async function start(object: StandInObject | Uint8Array = body) {
  const cache = await StandInCache.start({ objects: { "/nar/1": object } });
  const http = createHttpClient({ environment: {}, stallTimeoutMs: 40, headersTimeoutMs: 40 });
  open.push(cache, http);
  const base = parseCacheUrl(cache.origin);
  /** Downloads with a clock that advances whenever somebody waits. */
  const run = async (options: Partial<DownloadOptions> = {}): Promise<Outcome> => {
    const waits: number[] = [];
    const clock = {
      now: () => 0,
      wait: async (ms: number) => {
        waits.push(ms);
      },
    };
    const pieces: Uint8Array[] = [];
    try {
      const all = { http, policy: { base }, clock, ...options };
      for await (const piece of download(new URL("nar/1", base), all)) pieces.push(piece);
      return { bytes: Buffer.concat(pieces), error: undefined, waits };
    } catch (error) {
      return { bytes: Buffer.concat(pieces), error, waits };
    }
  };
  const ranges = () => cache.requests.map(({ headers }) => headers.range);
  return { cache, run, ranges };
}

describe("download()", () => {
  it.each<CacheFault>([
    { kind: "cut", afterBytes: 100_000 },
    { kind: "stall", afterBytes: 100_000 },
  ])("goes on by Range after a $kind, with If-Range and no byte twice", async (fault) => {
    const { cache, run, ranges } = await start();
    cache.fail("nar", fault, 2);
    const interruptions: number[] = [];
    const onInterrupted = (_error: unknown, position: number) => void interruptions.push(position);
    const { bytes, error } = await run({ onInterrupted });
    expect(error).toBeUndefined();
    expect(bytes.equals(body)).toBe(true);
    expect(ranges()).toEqual([undefined, "bytes=100000-", "bytes=200000-"]);
    expect(cache.requests[2]?.headers["if-range"]).toBe('"300000"');
    expect(interruptions).toEqual([100_000, 200_000]);
    expect(cache.requests.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(body.length);
  });

  it("a Content-Length that promises too much is mended by asking for the rest", async () => {
    const { cache, run, ranges } = await start();
    cache.fail("nar", { kind: "contentLength", delta: 10 }, 1);
    const { bytes, error } = await run();
    expect([bytes.equals(body), error]).toEqual([true, undefined]);
    expect(ranges()).toEqual([undefined, "bytes=300000-"]);
  });

  it.each<[string, CacheFault]>([
    ["the server knows no ranges", { kind: "noRanges" }],
    ["a whole body comes as a part", { kind: "wrongRange", how: "whole" }],
    ["a shifted part comes", { kind: "wrongRange", how: "shifted" }],
    ["a part comes encoded", { kind: "headers", headers: { "content-encoding": "gzip" } }],
    [
      "the size is another one",
      { kind: "headers", headers: { "content-range": "bytes 100000-299998/299999" } },
    ],
  ])("does not go on where %s: UNAVAILABLE with the position", async (_case, fault) => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "cut", afterBytes: 100_000 }, 1);
    cache.fail("nar", fault);
    const { bytes, error } = await run();
    expect(error).toMatchObject({
      code: "UNAVAILABLE",
      message: expect.stringMatching(/\/nar\/1: .*\(at byte 100000\)$/),
    });
    expect(bytes.equals(body.subarray(0, 100_000))).toBe(true);
  });

  it("an object that changed meanwhile is not mixed with the new one", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "cut", afterBytes: 100_000 }, 1);
    const { error } = await run({
      onInterrupted: () => void cache.objects.set("/nar/1", Buffer.alloc(300_001)),
    });
    expect(error).toMatchObject({ message: expect.stringMatching(/changed while.*100000/) });
  });

  it("what has no ranges is not tried again once a byte was handed out", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "headers", headers: { "accept-ranges": undefined } }, 1);
    cache.fail("nar", { kind: "status", status: 503 }, 1);
    expect((await run()).error).toBeUndefined();
    const gzip = { body: gzipSync(body), headers: { "content-encoding": "gzip" } };
    const encoded = await start(gzip);
    expect((await encoded.run()).bytes.equals(body)).toBe(true);
    encoded.cache.fail("nar", { kind: "cut", afterBytes: gzip.body.length - 10 });
    expect((await encoded.run()).error).toMatchObject({ code: "UNAVAILABLE" });
    expect(encoded.ranges().filter((range) => range !== undefined)).toEqual([]);
  });

  it("passing errors are retried with growing patience, and not for ever", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "status", status: 503 });
    const { error, waits } = await run();
    expect(error).toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(/503/) });
    expect(cache.requests.length).toBe(DOWNLOAD_RETRIES_MAX + 1);
    expect(waits).toEqual([1, 2, 4, 8, 16].map((n) => n * RETRY_DELAY_MS));
  });

  it("Retry-After is heeded up to a limit", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "status", status: 429, headers: { "retry-after": "3" } }, 1);
    expect(await run()).toMatchObject({ error: undefined, waits: [3000] });
    cache.fail("nar", { kind: "status", status: 429, headers: { "retry-after": "3600" } }, 1);
    expect(await run()).toMatchObject({ error: { code: "UNAVAILABLE" }, waits: [] });
  });

  it("retries count anew after progress, not after a few bytes", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "cut", afterBytes: 10 });
    expect((await run()).bytes.length).toBe(10 * (DOWNLOAD_RETRIES_MAX + 1));
    cache.heal();
    cache.fail("nar", { kind: "cut", afterBytes: 70_000 });
    const { bytes, error } = await run({ retriesMax: 1 });
    expect([bytes.equals(body), error]).toEqual([true, undefined]);
  });

  it.each([
    [404, "INCOMPLETE"],
    [410, "INCOMPLETE"],
    [401, "DENIED"],
    [403, "DENIED"],
    [418, "UNAVAILABLE"],
  ])("status %i is %s at once", async (status, code) => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "status", status });
    expect((await run()).error).toMatchObject({ code });
    expect(cache.requests.length).toBe(1);
  });

  it("a login page is not a NAR", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "html" });
    const { bytes, error } = await run();
    expect([bytes.length, cache.requests.length]).toEqual([0, 1]);
    expect(error).toMatchObject({ code: "UNAVAILABLE", message: expect.stringMatching(/HTML/) });
  });

  it("a NAR that is called text/html is one all the same", async () => {
    const { run } = await start({ body, headers: { "content-type": "text/html" } });
    expect((await run()).bytes.equals(body)).toBe(true);
  });

  it("starts anywhere, with ranges or by skipping", async () => {
    const { cache, run, ranges } = await start();
    expect((await run({ from: 299_990 })).bytes.equals(body.subarray(299_990))).toBe(true);
    expect(ranges()).toEqual(["bytes=299990-"]);
    expect((await run({ from: 300_000 })).bytes.length).toBe(0);
    expect((await run({ from: 300_001 })).error).toMatchObject({ code: "UNAVAILABLE" });
    cache.fail("nar", { kind: "noRanges" });
    expect((await run({ from: 299_990 })).bytes.equals(body.subarray(299_990))).toBe(true);
  });

  it("yields the true bytes or a true beginning of them, whatever faults come", async () => {
    const position = fc.integer({ min: 0, max: body.length });
    const fault = fc.oneof<fc.Arbitrary<CacheFault>[]>(
      position.map((afterBytes) => ({ kind: "cut", afterBytes })),
      fc.constantFrom(
        { kind: "reset" },
        { kind: "noRanges" },
        { kind: "html" },
        { kind: "status", status: 503 },
        { kind: "wrongRange", how: "whole" },
        { kind: "wrongRange", how: "shifted" },
        { kind: "contentLength", delta: 10 },
        { kind: "headers", headers: { etag: undefined } },
        { kind: "headers", headers: { etag: 'W/"weak"' } },
        { kind: "headers", headers: { "content-length": undefined } },
      ),
    );
    const { cache, run } = await start();
    await fc.assert(
      fc.asyncProperty(fc.array(fault, { maxLength: 5 }), position, async (faults, from) => {
        cache.heal();
        for (const next of faults) cache.fail("nar", next, 1);
        const { bytes, error } = await run({ from });
        expect(bytes.equals(body.subarray(from, from + bytes.length))).toBe(true);
        if (error === undefined) expect(bytes.length).toBe(body.length - from);
        else expect(error).toMatchObject({ code: "UNAVAILABLE" });
      }),
      { numRuns: 60 },
    );
  });

  it("ends with the signal's reason, in a wait too, and frees the connection", async () => {
    const { cache, run } = await start();
    cache.fail("nar", { kind: "stall", afterBytes: 100 });
    const controller = new AbortController();
    const reason = new Error("gone");
    const first = run({ signal: controller.signal });
    await cache.until(({ requests }) => (requests[0]?.bytes ?? 0) === 100);
    controller.abort(reason);
    expect((await first).error).toBe(reason);
    await cache.until(({ connections }) => connections === 0);
    const clock = new ManualClock();
    const second = new AbortController();
    cache.heal();
    cache.fail("nar", { kind: "status", status: 500 });
    const waiting = run({ signal: second.signal, clock });
    await clock.untilWaiting(1);
    second.abort(reason);
    expect((await waiting).error).toBe(reason);
  });
});
