import { createHash, randomBytes } from "node:crypto";
import { expect, test } from "vitest";
import { narHashOf } from "../src/nix/nix-hash.ts";
import { deliverNar, type NarSource, TAIL_BYTES } from "../src/substitution/nar-delivery.ts";

const NAR = randomBytes(300_000);
const EXPECTED = {
  narHash: narHashOf(createHash("sha256").update(NAR).digest()),
  narSize: NAR.byteLength,
};
const PIECE = 10_000;

interface Script {
  readonly bytes?: Uint8Array;
  /** Byte at which the source rejects, or hangs until its signal. */
  readonly failAt?: number;
  readonly hangAt?: number;
}

interface Scripted extends NarSource {
  readonly log: string[];
  aborted: boolean;
}

function scripted(name: string, script: Script = {}): Scripted {
  const bytes = script.bytes ?? NAR;
  const log: string[] = [];
  const source: Scripted = {
    name,
    log,
    aborted: false,
    async *open(signal) {
      log.push("open");
      signal.addEventListener("abort", () => {
        source.aborted = true;
      });
      for (let at = 0; at < bytes.byteLength; at += PIECE) {
        if (script.failAt !== undefined && at >= script.failAt) throw new Error("broke off");
        if (script.hangAt !== undefined && at >= script.hangAt) {
          await new Promise((_, reject) => {
            signal.addEventListener("abort", () => reject(signal.reason));
          });
        }
        yield bytes.subarray(at, at + PIECE);
      }
    },
    proven: () => log.push("proven"),
    failed: (_, wrong) => log.push(wrong ? "wrong" : "failed"),
  };
  return source;
}

async function deliver(
  sources: readonly NarSource[],
  options: { holdBytes?: number; holdMs?: number; stallMs?: number; signal?: AbortSignal } = {},
): Promise<{ bytes: Buffer; error: unknown }> {
  const pieces: Uint8Array[] = [];
  const signal = options.signal ?? new AbortController().signal;
  try {
    const all = { holdBytes: 0, ...options, signal };
    for await (const piece of deliverNar(EXPECTED, sources, all)) pieces.push(piece);
    return { bytes: Buffer.concat(pieces), error: undefined };
  } catch (error) {
    return { bytes: Buffer.concat(pieces), error };
  }
}

function corrupted(at: number): Uint8Array {
  const bytes = Uint8Array.from(NAR);
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  return bytes;
}

test("one good source gives the NAR and is told that it is proven", async () => {
  const only = scripted("only");
  const { bytes, error } = await deliver([only]);
  expect(error).toBeUndefined();
  expect(bytes.equals(NAR)).toBe(true);
  expect(only.log).toEqual(["open", "proven"]);
});

test("a later source is not opened while an earlier one is good", async () => {
  const second = scripted("second");
  await deliver([scripted("first"), second]);
  expect(second.log).toEqual([]);
});

test("a source that breaks off is continued by the next at the byte reached", async () => {
  const first = scripted("first", { failAt: 150_000 });
  const second = scripted("second");
  const { bytes, error } = await deliver([first, second]);
  expect(error).toBeUndefined();
  expect(bytes.equals(NAR)).toBe(true);
  expect(first.log).toEqual(["open", "failed"]);
  expect(second.log).toEqual(["open", "proven"]);
});

test("what is held back leaves though the time for it ran out while nobody looked", async () => {
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  const busy: NarSource = {
    name: "busy",
    async *open() {
      yield NAR.subarray(0, 200_000);
      const end = performance.now() + 100;
      while (performance.now() < end);
      await released;
      yield NAR.subarray(200_000);
    },
  };
  const { signal } = new AbortController();
  const limits = { holdBytes: NAR.byteLength, holdMs: 50, stallMs: 20_000, signal };
  const pieces: Uint8Array[] = [];
  for await (const piece of deliverNar(EXPECTED, [busy], limits)) {
    pieces.push(piece);
    release();
  }
  expect(Buffer.concat(pieces).equals(NAR)).toBe(true);
});

test("a source that ends early is continued by the next", async () => {
  const short = scripted("short", { bytes: NAR.subarray(0, 200_000) });
  const { bytes } = await deliver([short, scripted("second")]);
  expect(bytes.equals(NAR)).toBe(true);
  expect(short.log).toEqual(["open", "failed"]);
});

test("a source that stalls is aborted and continued by the next", async () => {
  const stalled = scripted("stalled", { hangAt: 150_000 });
  const { bytes } = await deliver([stalled, scripted("second")], { stallMs: 30 });
  expect(bytes.equals(NAR)).toBe(true);
  expect(stalled.aborted).toBe(true);
});

test("a wrong byte that did not leave yet is replaced from the next source", async () => {
  const wrong = scripted("wrong", { bytes: corrupted(299_000) });
  const { bytes, error } = await deliver([wrong, scripted("second")]);
  expect(error).toBeUndefined();
  expect(bytes.equals(NAR)).toBe(true);
  expect(wrong.log).toEqual(["open", "wrong"]);
});

test("a wrong byte that left already ends the delivery short of the tail", async () => {
  const wrong = scripted("wrong", { bytes: corrupted(10) });
  const { bytes, error } = await deliver([wrong, scripted("second")]);
  expect(error).toMatchObject({ code: "CORRUPT" });
  expect(bytes.byteLength).toBe(NAR.byteLength - TAIL_BYTES);
});

test("held back, a wrong byte never leaves and the next source serves all", async () => {
  const wrong = scripted("wrong", { bytes: corrupted(10) });
  const { bytes, error } = await deliver([wrong, scripted("second")], { holdBytes: 1 << 20 });
  expect(error).toBeUndefined();
  expect(bytes.equals(NAR)).toBe(true);
});

test("a slow NAR is released after the holding time, but for its tail", async () => {
  const slow = scripted("slow", { hangAt: 200_000 });
  const times = { holdMs: 20, stallMs: 2_000 };
  const { bytes, error } = await deliver([slow], { holdBytes: 1 << 20, ...times });
  expect(error).toMatchObject({ code: "UNAVAILABLE" });
  expect(bytes.equals(NAR.subarray(0, 200_000 - TAIL_BYTES))).toBe(true);
});

test("more bytes than expected are refused at once", async () => {
  const long = scripted("long", { bytes: Buffer.concat([NAR, Buffer.alloc(1_000_000)]) });
  const { bytes, error } = await deliver([long]);
  expect(error).toMatchObject({ code: "CORRUPT" });
  expect(bytes.byteLength).toBeLessThanOrEqual(NAR.byteLength - TAIL_BYTES);
});

test("with no source left the error names the NAR and every reason", async () => {
  const { error } = await deliver([scripted("a", { failAt: 0 }), scripted("b", { failAt: 0 })]);
  expect(String(error)).toMatch(`NAR ${EXPECTED.narHash}`);
  expect(String(error)).toMatch(/a: broke off; b: broke off/);
});

test("the caller's signal ends the delivery with its reason and opens nothing more", async () => {
  const abort = new AbortController();
  const reason = new Error("client left");
  const first = scripted("first", { hangAt: 100_000 });
  const second = scripted("second");
  const delivery = deliver([first, second], { signal: abort.signal });
  setImmediate(() => abort.abort(reason));
  expect((await delivery).error).toBe(reason);
  expect(first.aborted).toBe(true);
  expect(second.log).toEqual([]);
});
