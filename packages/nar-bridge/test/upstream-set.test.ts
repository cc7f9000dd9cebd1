import { afterEach, describe, expect, it } from "vitest";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { parseStoreHash } from "../src/nix/store-path.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { readBody } from "../src/upstream/http-response.ts";
import { createUpstream, LOOKUP_TIMEOUT_MS } from "../src/upstream/upstream.ts";
import type { RestEvent } from "../src/upstream/upstream-rest.ts";
import {
  createUpstreamSet,
  HEDGE_MS,
  LOOKUP_MS_MAX,
  NAR_INFO_TTL_MS,
  SECOND_TRY_MS,
  type UpstreamSetOptions,
} from "../src/upstream/upstream-set.ts";

const HASH = "0123456789abcdfghijklmnpqrsvwxyz";
const storeHash = parseStoreHash(HASH);
const otherHash = parseStoreHash(`1${HASH.slice(1)}`);
const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

function narInfoText(hash: string, url: string): string {
  return [
    `StorePath: /nix/store/${hash}-name`,
    `URL: ${url}`,
    "Compression: none",
    `NarHash: sha256:${"0".repeat(52)}`,
    "NarSize: 120",
    "References: \n",
  ].join("\n");
}

/** Caches named a, b, c … whose narinfos name them, with these priorities of the user's. */
async function start(
  priorities: readonly (number | undefined)[],
  options: Partial<UpstreamSetOptions> = {},
) {
  const clock = new ManualClock();
  const http = createHttpClient({ environment: {} });
  open.push(http);
  const caches: StandInCache[] = [];
  for (const name of "abcdef".slice(0, priorities.length)) {
    const objects = {
      [`/${storeHash}.narinfo`]: narInfoText(storeHash, `nar/${name}`),
      [`/${otherHash}.narinfo`]: narInfoText(otherHash, `nar/${name}`),
    };
    caches.push(await StandInCache.start({ objects }));
  }
  open.push(...caches);
  const events: string[] = [];
  const upstreams = caches.map(({ origin }, index) => {
    const priority = priorities[index];
    const url = priority === undefined ? origin : `${origin}?priority=${priority}`;
    return createUpstream({ http, clock, url });
  });
  const onRest = (upstream: (typeof upstreams)[number], event: RestEvent) => {
    const name = "abcdef"[upstreams.indexOf(upstream)];
    events.push(event.kind === "rests" ? `${name} rests ${event.ms}` : `${name} answers`);
  };
  const set = createUpstreamSet({ upstreams, accept: () => true, clock, onRest, ...options });
  const find = async (hash = storeHash, signal?: AbortSignal) => {
    const { found, reasons } = await set.findNarInfo(hash, { signal });
    return found?.narInfo.url ?? reasons.map((text) => text.replace(/^\S+ /, "")).join("; ");
  };
  const asked = () => caches.map((cache) => cache.seen("narinfo").length);
  return { clock, caches, upstreams, set, find, asked, events };
}

const down = { kind: "status", status: 500 } as const;
const forget = (clock: ManualClock) => clock.advance(NAR_INFO_TTL_MS + 1);

async function failTwice(clock: ManualClock, find: () => Promise<string>): Promise<string> {
  const found = find();
  await clock.untilWaitingFor(SECOND_TRY_MS);
  clock.advance(SECOND_TRY_MS);
  return await found;
}

describe("order", () => {
  it("the first has the say, and the others are not asked", async () => {
    const { find, asked } = await start([1, 2]);
    expect(await find()).toBe("nar/a");
    expect(asked()).toEqual([1, 0]);
  });

  it("the caches' own priorities go before the order given, the user's before those", async () => {
    const { caches, find } = await start([undefined, undefined, 20]);
    caches[0]?.objects.set("/nix-cache-info", "Priority: 40\n");
    caches[1]?.objects.set("/nix-cache-info", "Priority: 30\n");
    expect(await find()).toBe("nar/c");
    caches[2]?.fail("narinfo", { kind: "status", status: 404 });
    expect(await find(otherHash)).toBe("nar/b");
    expect(caches.map((cache) => cache.seen("nix-cache-info").length)).toEqual([1, 1, 0]);
  });

  it("a nix-cache-info that does not come holds nobody up for long", async () => {
    const { clock, caches, find } = await start([undefined, undefined]);
    caches[0]?.fail("nix-cache-info", { kind: "hang" });
    const found = find();
    await caches[0]?.until(({ requests }) => requests.length === 1);
    await clock.untilWaiting(1);
    clock.advance(HEDGE_MS);
    expect(await found).toBe("nar/a");
  });
});

describe("misses", () => {
  it.each([404, 403, 401])("%i is one: the next is asked at once, nobody rests", async (status) => {
    const { caches, find, asked, events } = await start([1, 2]);
    caches[0]?.fail("narinfo", { kind: "status", status });
    expect(await find()).toBe("nar/b");
    expect(await find(otherHash)).toBe("nar/b");
    expect([asked(), events]).toEqual([[2, 2], []]);
  });

  it("are told with the reason of each upstream, and asked anew each time", async () => {
    const { caches, find, asked } = await start([1, 2, 3, 4], {
      accept: ({ url }) => (url === "nar/c" ? "no signature by a trusted key" : true),
    });
    caches[0]?.fail("narinfo", { kind: "status", status: 404 });
    caches[1]?.fail("narinfo", { kind: "html" });
    caches[3]?.objects.set(`/${storeHash}.narinfo`, narInfoText(otherHash, "nar/d"));
    expect((await find()).split("; ")).toEqual([
      "absent",
      expect.stringMatching(/StorePath|narinfo/),
      "no signature by a trusted key",
      `answered with the narinfo of ${otherHash}-name`,
    ]);
    await find();
    expect(asked()).toEqual([2, 2, 2, 2]);
  });

  it("of no upstreams at all are misses too", async () => {
    const { find } = await start([]);
    expect(await find()).toBe("");
  });
});

describe("time", () => {
  it("the next is asked after a while without an answer, and its answer is taken", async () => {
    const { clock, caches, find, asked } = await start([1, 2]);
    caches[0]?.fail("narinfo", { kind: "hang" });
    const found = find();
    await caches[0]?.until((cache) => cache.seen("narinfo").length === 1);
    expect(asked()).toEqual([1, 0]);
    clock.advance(HEDGE_MS - 1);
    expect(asked()).toEqual([1, 0]);
    clock.advance(1);
    expect(await found).toBe("nar/b");
  });

  it("of answers that come together the one of the first counts", async () => {
    const { clock, caches, set, find } = await start([1, 2]);
    const release: (() => void)[] = [];
    for (const [index, upstream] of set.upstreams.entries()) {
      // Both texts arrive in one turn of the event loop, the second cache's before the first's.
      const text = narInfoText(storeHash, `nar/${"ab"[index]}`);
      upstream.narInfoText = () => new Promise((resolve) => release.unshift(() => resolve(text)));
    }
    const found = find();
    await clock.untilWaitingFor(HEDGE_MS);
    clock.advance(HEDGE_MS);
    await clock.untilWaitingFor(LOOKUP_TIMEOUT_MS, 3);
    for (const answer of release) answer();
    expect(await found).toBe("nar/a");
    expect(caches[0]?.requests).toEqual([]);
  });

  it("a lookup ends in time whatever hangs, and what hung then rests", async () => {
    const { clock, caches, find, events } = await start([1, 2]);
    for (const cache of caches) cache.fail("narinfo", { kind: "hang" });
    const found = find();
    await caches[0]?.until((cache) => cache.seen("narinfo").length === 1);
    clock.advance(HEDGE_MS);
    await caches[1]?.until((cache) => cache.seen("narinfo").length === 1);
    clock.advance(LOOKUP_MS_MAX - HEDGE_MS);
    expect(await found).toMatch(/no answer.*; no answer/);
    clock.advance(LOOKUP_TIMEOUT_MS);
    await caches[0]?.until(({ connections }) => connections === 0);
    await caches[1]?.until(({ connections }) => connections === 0);
    expect(events.sort()).toEqual(["a rests 10000", "b rests 10000"]);
    expect(await find()).toMatch(/rests.*; rests/);
  });

  it("an upstream that hung rests although another one gave the answer", async () => {
    const { clock, caches, find, asked, events } = await start([1, 2]);
    caches[0]?.fail("narinfo", { kind: "hang" });
    const found = find();
    await caches[0]?.until((cache) => cache.seen("narinfo").length === 1);
    clock.advance(HEDGE_MS);
    expect(await found).toBe("nar/b");
    clock.advance(LOOKUP_TIMEOUT_MS);
    await caches[0]?.until(({ connections }) => connections === 0);
    expect(events).toEqual(["a rests 10000"]);
    expect(await find(otherHash)).toBe("nar/b");
    expect(asked()).toEqual([1, 2]);
  });
});

describe("rests", () => {
  it("one failed request is tried again before anything follows from it", async () => {
    const { clock, caches, find, asked, events } = await start([1, 2]);
    caches[0]?.fail("narinfo", down, 1);
    expect(await failTwice(clock, find)).toBe("nar/a");
    expect([asked(), events]).toEqual([[2, 0], []]);
  });

  it("double up to a limit, with one probe after each, and end with an answer", async () => {
    const { clock, caches, set, asked, events } = await start([1, 2]);
    const find = async () =>
      (await set.findNarInfoElsewhere(storeHash, { except: new Set() }))?.narInfo.url ?? "";
    caches[0]?.fail("narinfo", down);
    const rests = [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000];
    for (const restMs of rests) {
      expect(await failTwice(clock, find)).toBe("nar/b");
      clock.advance(restMs - 1);
      const before = asked()[0];
      expect(await find()).toBe("nar/b");
      expect(asked()[0]).toBe(before);
      clock.advance(1);
    }
    expect(events).toEqual(rests.map((restMs) => `a rests ${restMs}`));
    caches[0]?.heal();
    expect(await find()).toBe("nar/a");
    expect(events.at(-1)).toBe("a answers");
    clock.advance(1);
    caches[0]?.fail("narinfo", down);
    await failTwice(clock, find);
    expect(events.at(-1)).toBe("a rests 10000");
  });

  it("only one question goes to an upstream that is probed", async () => {
    const { clock, caches, find, asked } = await start([1, 2]);
    caches[0]?.fail("narinfo", down, 2);
    await failTwice(clock, find);
    forget(clock);
    caches[0]?.fail("narinfo", { kind: "hang" }, 1);
    const probe = find();
    await caches[0]?.until((cache) => cache.seen("narinfo").length === 3);
    expect(await find(otherHash)).toBe("nar/b");
    expect(asked()[0]).toBe(3);
    clock.advance(HEDGE_MS);
    expect(await probe).toBe("nar/b");
  });

  it("many failures at once are one rest", async () => {
    const { clock, caches, set, events } = await start([1]);
    caches[0]?.fail("narinfo", down);
    const hashes = [..."0123456789"].map((digit) => parseStoreHash(digit + HASH.slice(1)));
    const found = hashes.map((hash) => set.findNarInfo(hash));
    await clock.untilWaitingFor(SECOND_TRY_MS, hashes.length);
    clock.advance(SECOND_TRY_MS);
    await Promise.all(found);
    expect(events).toEqual(["a rests 10000"]);
  });

  it("one bad object does not send a cache to rest that answers others meanwhile", async () => {
    const { clock, caches, find, events } = await start([1]);
    caches[0]?.fail(`/${storeHash}.narinfo`, down);
    const bad = find();
    await clock.untilWaitingFor(SECOND_TRY_MS);
    clock.advance(SECOND_TRY_MS / 2);
    expect(await find(otherHash)).toBe("nar/a");
    clock.advance(SECOND_TRY_MS / 2);
    expect(await bad).toMatch(/answered 500/);
    expect(events).toEqual([]);
  });

  it("nothing listening is a failure as well", async () => {
    const { clock, caches, find, events } = await start([1, 2]);
    await caches[0]?.close();
    expect(await failTwice(clock, find)).toBe("nar/b");
    expect(events).toEqual(["a rests 10000"]);
  });
});

describe("flights and memory", () => {
  it("one request serves all who ask at once, and those who ask soon after", async () => {
    const { clock, find, asked } = await start([1]);
    expect(await Promise.all([find(), find(), find()])).toEqual(Array(3).fill("nar/a"));
    await find();
    expect(asked()).toEqual([1]);
    forget(clock);
    await find();
    expect(asked()).toEqual([2]);
  });

  it("a flight goes on while anybody waits, and ends with the last", async () => {
    const { caches, find, events } = await start([1]);
    const [cache] = caches;
    cache?.fail("narinfo", { kind: "hang" });
    const [first, second] = [new AbortController(), new AbortController()];
    const reason = new Error("gone");
    const found = [find(storeHash, first.signal), find(storeHash, second.signal)];
    await cache?.until(({ requests }) => requests.length === 1);
    first.abort(reason);
    await expect(found[0]).rejects.toBe(reason);
    expect(cache?.connections).toBe(1);
    second.abort(reason);
    await expect(found[1]).rejects.toBe(reason);
    await cache?.until(({ connections }) => connections === 0);
    expect(events).toEqual([]);
    cache?.heal();
    expect(await find()).toBe("nar/a");
  });

  it("elsewhere means without the upstreams named", async () => {
    const { set, upstreams, asked } = await start([1, 2]);
    const except = new Set([upstreams[0]]);
    const found = await set.findNarInfoElsewhere(storeHash, { except });
    expect([found?.narInfo.url, found?.upstream]).toEqual(["nar/b", upstreams[1]]);
    expect(asked()).toEqual([0, 1]);
    const none = { except: new Set(upstreams) };
    expect(await set.findNarInfoElsewhere(storeHash, none)).toBeUndefined();
  });
});

describe("firstAnswer()", () => {
  it("comes from the first upstream that has the thing and is not at rest", async () => {
    const { clock, caches, set, find, events } = await start([1, 2, 3]);
    caches[1]?.objects.set("/log/x", "of b");
    caches[2]?.objects.set("/log/x", "of c");
    const answer = await set.firstAnswer("log/x");
    expect(answer && Buffer.from(await readBody(answer, 9)).toString()).toBe("of b");
    expect(await set.firstAnswer("log/y")).toBeUndefined();
    caches[1]?.fail("log", down);
    const other = await set.firstAnswer("log/x", { method: "HEAD" });
    other?.discard();
    expect(other?.url.origin).toBe(caches[2]?.origin);
    expect(events).toEqual(["b rests 10000"]);
    await set.firstAnswer("log/y");
    expect(caches.map((cache) => cache.seen("log").length)).toEqual([4, 3, 3]);
    expect(await find()).toBe("nar/a");
    expect(clock.waiting).toBe(0);
  });
});
