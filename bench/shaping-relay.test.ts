import { createServer } from "node:http";
import { Agent, request } from "undici";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type ShapingRelay, startShapingRelay } from "./shaping-relay.ts";

const LINK = { bitsPerSecond: 100e6, roundTripMs: 20 };
const BYTES_PER_MS = 12_500;
const server = createServer((message, response) => {
  const size = Number(message.url?.slice(1));
  message.resume().on("end", () => response.end(Buffer.alloc(size)));
});
let target: string;

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  target = typeof address === "object" ? `http://127.0.0.1:${address?.port}` : "";
});
afterAll(() => new Promise((resolve) => server.close(resolve)));

/**
 * Expects `work` to take `expectedMs`: never less, and in one of ten rounds no more but for the
 * time in which other programs kept this process from running.
 */
async function expectTime(
  expectedMs: number,
  part: number,
  work: (relay: ShapingRelay, dispatcher: Agent) => Promise<void>,
  connections = 8,
): Promise<void> {
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 10 && best > expectedMs * (1 + part); round++) {
    await using relay = await startShapingRelay(target, LINK);
    const dispatcher = new Agent({ connections });
    const stalls = watchStalls();
    const start = performance.now();
    await work(relay, dispatcher);
    const ms = performance.now() - start;
    best = Math.min(best, Math.max(expectedMs, ms - stalls.stop()), ms);
    await dispatcher.destroy();
  }
  expect(Math.abs(best / expectedMs - 1), `${best} ms, not ${expectedMs} ms`).toBeLessThan(part);
}

/** Sums up how much later than 10 ms a timer of 5 ms fires. */
function watchStalls(): { stop(): number } {
  let stalledMs = 0;
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    stalledMs += Math.max(0, now - last - 10);
    last = now;
  }, 5);
  return {
    stop() {
      clearInterval(timer);
      return stalledMs;
    },
  };
}

async function get(relay: ShapingRelay, dispatcher: Agent, size: number): Promise<void> {
  const { body } = await request(`${relay.url}/${size}`, { dispatcher });
  expect((await body.arrayBuffer()).byteLength).toBe(size);
}

it("one connection gets the whole rate, within 3 %", async () => {
  const size = 30_000_000;
  await expectTime(size / BYTES_PER_MS + 2 * LINK.roundTripMs, 0.03, (relay, dispatcher) =>
    get(relay, dispatcher, size),
  );
});

it("eight connections share it, within 3 %", async () => {
  const size = 3_750_000;
  const expectedMs = (8 * size) / BYTES_PER_MS + 2 * LINK.roundTripMs;
  await expectTime(expectedMs, 0.03, async (relay, dispatcher) => {
    await Promise.all(Array.from({ length: 8 }, () => get(relay, dispatcher, size)));
    expect(relay.connections).toBe(8);
  });
});

it("a request costs one round trip, and a new connection one more", async () => {
  const twenty = async (relay: ShapingRelay, dispatcher: Agent) => {
    for (let n = 0; n < 20; n++) await get(relay, dispatcher, 10);
    expect(relay.connections).toBe(1);
  };
  await expectTime(21 * LINK.roundTripMs, 0.2, twenty, 1);
});

it("uploads are shaped too, and every byte is counted", async () => {
  const size = 30_000_000;
  const expectedMs = size / BYTES_PER_MS + 2 * LINK.roundTripMs;
  await expectTime(expectedMs, 0.03, async (relay, dispatcher) => {
    const options = { dispatcher, method: "PUT" as const, body: Buffer.alloc(size) };
    const { body } = await request(`${relay.url}/0`, options);
    await body.dump();
    expect(relay.bytesUp).toBeGreaterThan(size);
    expect(relay.bytesUp).toBeLessThan(size + 500);
    expect(relay.bytesDown).toBeLessThan(500);
  });
});

it("a large answer does not hold up a small one on another connection", async () => {
  await using relay = await startShapingRelay(target, LINK);
  const dispatcher = new Agent();
  let isLargeDone = false;
  const large = get(relay, dispatcher, 5_000_000).then(() => {
    isLargeDone = true;
  });
  await get(relay, dispatcher, 10);
  expect(isLargeDone).toBe(false);
  await large;
  await dispatcher.destroy();
});
