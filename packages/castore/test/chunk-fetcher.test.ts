import { expect, test } from "vitest";
import {
  ChunkFetcher,
  type ChunkTransport,
  FETCH_ITEMS_MAX,
} from "../src/fetching/chunk-fetcher.ts";
import { createTransferCost } from "../src/fetching/transfer-cost.ts";
import { type Digest, digestOf } from "../src/model/digest.ts";
import type { ChunkMeta } from "../src/services/blob-service.ts";

interface Remote extends ChunkTransport {
  readonly requests: (readonly ChunkMeta[])[];
  aborted: number;
}

/** A remote with the given chunks; `gate` holds every answer back until it resolves. */
function remote(chunks: ReadonlyMap<Digest, Uint8Array>, gate?: Promise<void>): Remote {
  const self: Remote = {
    requests: [],
    aborted: 0,
    async *fetchChunks(wanted, { signal }) {
      self.requests.push(wanted);
      signal?.addEventListener("abort", () => self.aborted++);
      await gate;
      let requests = 1;
      for (const { digest, size } of wanted) {
        yield { bytes: chunks.get(digest), cost: { requests, bytes: size + 10 } };
        requests = 0;
      }
    },
  };
  return self;
}

function makeChunks(count: number, size: number): Map<Digest, Uint8Array> {
  const chunks = new Map<Digest, Uint8Array>();
  for (let i = 0; i < count; i++) {
    const bytes = Buffer.alloc(size, `chunk ${i} `);
    chunks.set(digestOf(bytes), bytes);
  }
  return chunks;
}

function metas(chunks: ReadonlyMap<Digest, Uint8Array>): ChunkMeta[] {
  return [...chunks].map(([digest, { byteLength }]) => ({ digest, size: byteLength }));
}

test("chunks of several plans are fetched once each, in few requests", async () => {
  const chunks = makeChunks(300, 1_000);
  let answer = () => {};
  const gate = new Promise<void>((resolve) => {
    answer = resolve;
  });
  const source = remote(chunks, gate);
  using fetcher = new ChunkFetcher(source, { parallel: 1 });
  const first = metas(chunks).slice(0, 200);
  const second = metas(chunks).slice(100);
  using a = fetcher.plan(first);
  using b = fetcher.plan(second);
  answer();
  for (const chunk of first) expect(await a.take(chunk)).toEqual(chunks.get(chunk.digest));
  for (const chunk of second) expect(await b.take(chunk)).toEqual(chunks.get(chunk.digest));
  expect(source.requests.map(({ length }) => length)).toEqual([200, 100]);
});

test("no request asks for more than the limits allow", async () => {
  const chunks = makeChunks(FETCH_ITEMS_MAX + 10, 10);
  const source = remote(chunks);
  using fetcher = new ChunkFetcher(source);
  using plan = fetcher.plan(metas(chunks));
  for (const chunk of metas(chunks)) await plan.take(chunk);
  expect(source.requests.map(({ length }) => length)).toEqual([FETCH_ITEMS_MAX, 10]);
});

test("a chunk that is planned n times is fetched once and may be taken n times", async () => {
  const chunks = makeChunks(1, 5_000);
  const source = remote(chunks);
  using fetcher = new ChunkFetcher(source);
  const [chunk] = metas(chunks);
  if (chunk === undefined) throw new Error("no chunk");
  using plan = fetcher.plan([chunk, chunk, chunk]);
  for (let i = 0; i < 3; i++) expect((await plan.take(chunk)).byteLength).toBe(5_000);
  expect(source.requests.length).toBe(1);
});

test("fetching ahead stops at its limit, and a reader that waits is served beyond it", async () => {
  const chunks = makeChunks(10, 1_000);
  const source = remote(chunks);
  using fetcher = new ChunkFetcher(source, { aheadBytes: 3_000 });
  const list = metas(chunks);
  using plan = fetcher.plan(list);
  await new Promise((resolve) => setImmediate(resolve));
  expect(source.requests.flat().length).toBe(3);
  const last = list.at(-1);
  if (last === undefined) throw new Error("no chunk");
  expect((await plan.take(last)).byteLength).toBe(1_000);
  expect(source.requests.flat().length).toBe(4);
  for (const chunk of list.slice(0, -1)) await plan.take(chunk);
  expect(source.requests.flat().length).toBe(10);
});

test("wrong, missing and cut-off answers fail the chunk they belong to, named", async () => {
  const chunks = makeChunks(4, 100);
  const list = metas(chunks);
  const [good, wrong, missing, cut] = list;
  if (!good || !wrong || !missing || !cut) throw new Error("no chunks");
  chunks.set(wrong.digest, new Uint8Array(100));
  chunks.delete(missing.digest);
  const transport: ChunkTransport = {
    async *fetchChunks(wanted) {
      for (const { digest } of wanted) {
        if (digest === cut.digest) return;
        yield { bytes: chunks.get(digest), cost: { requests: 0, bytes: 0 } };
      }
    },
  };
  using fetcher = new ChunkFetcher(transport);
  using plan = fetcher.plan(list);
  expect((await plan.take(good)).byteLength).toBe(100);
  await expect(plan.take(wrong)).rejects.toMatchObject({ code: "CORRUPT" });
  await expect(plan.take(missing)).rejects.toThrow(missing.digest);
  await expect(plan.take(cut)).rejects.toMatchObject({ code: "UNAVAILABLE" });
});

test("a request that nobody wants any more is aborted", async () => {
  const source = remote(makeChunks(0, 0), new Promise(() => {}));
  using fetcher = new ChunkFetcher(source);
  const plan = fetcher.plan(metas(makeChunks(5, 100)));
  expect(source.requests.length).toBe(1);
  plan[Symbol.dispose]();
  expect(source.aborted).toBe(1);
});

test("a closed fetcher fails what is waited for", async () => {
  const source = remote(makeChunks(0, 0), new Promise(() => {}));
  const fetcher = new ChunkFetcher(source);
  const list = metas(makeChunks(1, 100));
  using plan = fetcher.plan(list);
  const [chunk] = list;
  if (chunk === undefined) throw new Error("no chunk");
  const taken = plan.take(chunk);
  fetcher[Symbol.dispose]();
  await expect(taken).rejects.toMatchObject({ code: "CLOSED" });
});

test("early chunks fill what readers leave, alone only while nothing is under way", async () => {
  const chunks = makeChunks(30, 1_000);
  let answer = () => {};
  const gate = new Promise<void>((resolve) => {
    answer = resolve;
  });
  const source = remote(chunks, gate);
  using fetcher = new ChunkFetcher(source);
  const list = metas(chunks);
  using reader = fetcher.plan(list.slice(0, 5));
  const early = [10, 15, 20].map((at) =>
    fetcher.plan(list.slice(at, at + 5), { urgency: "early" }),
  );
  using second = fetcher.plan(list.slice(5, 10));
  answer();
  for (const chunk of list.slice(0, 5)) await reader.take(chunk);
  for (const chunk of list.slice(5, 10)) await second.take(chunk);
  expect(source.requests.map(({ length }) => length)).toEqual([5, 20]);
  using late = fetcher.plan(list.slice(10, 15));
  for (const chunk of list.slice(10, 15)) await late.take(chunk);
  for (const plan of early) plan[Symbol.dispose]();
  expect(source.requests.length).toBe(2);
});

test("early chunks keep to their own limit, and leave readers theirs", async () => {
  const chunks = makeChunks(20, 1_000);
  const source = remote(chunks);
  using fetcher = new ChunkFetcher(source, { aheadBytes: 4_000, earlyBytes: 3_000 });
  const list = metas(chunks);
  using _early = fetcher.plan(list.slice(10), { urgency: "early" });
  using reader = fetcher.plan(list.slice(0, 10));
  await new Promise((resolve) => setImmediate(resolve));
  expect(source.requests.flat().length).toBe(7);
  for (const chunk of list.slice(0, 10)) await reader.take(chunk);
  expect(source.requests.flat().length).toBe(13);
});

test("what a chunk took counts once, for the plan that it was fetched for", async () => {
  const chunks = makeChunks(4, 100);
  const list = metas(chunks);
  using fetcher = new ChunkFetcher(remote(chunks), { parallel: 1 });
  const [first, second] = [createTransferCost(), createTransferCost()];
  using a = fetcher.plan(list.slice(0, 3), { cost: first });
  using b = fetcher.plan(list.slice(2), { cost: second });
  for (const chunk of list.slice(0, 3)) await a.take(chunk);
  for (const chunk of list.slice(2)) await b.take(chunk);
  expect([first, second]).toEqual([
    { requests: 1, bytes: 330 },
    { requests: 1, bytes: 110 },
  ]);
});
