import { describe, expect, test } from "vitest";
import { cancellable } from "../src/streams/cancellable.ts";
import { atMost, inParallel } from "../src/streams/parallel.ts";

const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

describe("inParallel()", () => {
  test("keeps the order, and has no more than its limit under way", async () => {
    let underWay = 0;
    let most = 0;
    const work = async (n: number): Promise<number> => {
      most = Math.max(most, ++underWay);
      // The later an item, the sooner it is done.
      for (let i = n; i < 20; i++) await Promise.resolve();
      underWay--;
      return 2 * n;
    };
    expect(await collect(inParallel(numbers(20), 4, work))).toEqual(numbers(20).map((n) => 2 * n));
    expect(most).toBe(4);
    expect(await collect(inParallel([], 4, work))).toEqual([]);
  });

  test("a failure stops the others and is the only one that is told", async () => {
    const failure = new Error("the third failed");
    const stopped: number[] = [];
    const work = async (n: number, signal: AbortSignal): Promise<number> => {
      if (n === 2) throw failure;
      if (n < 2) return n;
      await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
      stopped.push(n);
      throw new Error("stopped");
    };
    const got: number[] = [];
    const run = async (): Promise<void> => {
      for await (const n of inParallel(numbers(10), 5, work)) got.push(n);
    };
    await expect(run()).rejects.toBe(failure);
    expect(got).toEqual([0, 1]);
    // The failure was seen before a fifth was begun.
    expect(stopped).toEqual([3]);
  });

  test("after a failure, no further item is begun", async () => {
    const begun: number[] = [];
    const work = async (n: number): Promise<number> => {
      begun.push(n);
      if (n === 3) throw new Error("failed");
      return n;
    };
    await expect(collect(inParallel(numbers(1000), 100, work))).rejects.toThrow("failed");
    expect(begun.length).toBeLessThan(10);
  });

  test("a consumer that stops, stops the work", async () => {
    let aborted = 0;
    const work = async (n: number, signal: AbortSignal): Promise<number> => {
      if (n > 0) {
        await new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
        aborted++;
      }
      return n;
    };
    for await (const n of inParallel(numbers(10), 3, work)) {
      expect(n).toBe(0);
      break;
    }
    expect(aborted).toBe(2);
  });

  test("the caller's signal ends it with its reason, also while the items are silent", async () => {
    const reason = new Error("enough");
    const controller = new AbortController();
    const silent = async function* (): AsyncGenerator<number> {
      yield 1;
      queueMicrotask(() => controller.abort(reason));
      await new Promise(() => {});
    };
    const options = { signal: controller.signal };
    const run = collect(inParallel(silent(), 1, async (n) => n, options));
    await expect(run).rejects.toBe(reason);
  });
});

describe("atMost()", () => {
  test("begins in order, as soon as one of so many has ended, also by a failure", async () => {
    const run = atMost(2);
    const begun: number[] = [];
    const ends: ((fail: boolean) => void)[] = [];
    const results = numbers(5).map((n) =>
      run(() => {
        begun.push(n);
        return new Promise<number>((resolve, reject) =>
          ends.push((fail) => (fail ? reject(new Error(`${n}`)) : resolve(n))),
        );
      }),
    );
    expect(begun).toEqual([0, 1]);
    ends[1]?.(true);
    await expect(results[1]).rejects.toThrow("1");
    expect(begun).toEqual([0, 1, 2]);
    for (const n of [0, 2, 3, 4]) {
      ends[n]?.(false);
      expect(await results[n]).toBe(n);
    }
    expect(begun).toEqual(numbers(5));
    // As many as before may begin again.
    expect(await Promise.all([run(async () => "a"), run(async () => "b")])).toEqual(["a", "b"]);
  });
});

describe("cancellable()", () => {
  test("gives what the source gives, and closes a source that is left early", async () => {
    let closed = 0;
    const source = async function* (): AsyncGenerator<number> {
      try {
        yield* numbers(5);
      } finally {
        closed++;
      }
    };
    for (const signal of [undefined, new AbortController().signal]) {
      expect(await collect(cancellable(source(), signal))).toEqual(numbers(5));
      for await (const _ of cancellable(source(), signal)) break;
    }
    expect(closed).toBe(4);
    expect(await collect(cancellable(numbers(3), undefined))).toEqual(numbers(3));
  });

  test("passes on what the source throws", async () => {
    const failure = new Error("the source failed");
    const failing = async function* (): AsyncGenerator<number> {
      yield 1;
      throw failure;
    };
    const run = collect(cancellable(failing(), new AbortController().signal));
    await expect(run).rejects.toBe(failure);
  });

  test("leaves no listener on the signal", async () => {
    const { signal } = new AbortController();
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...parameters: Parameters<typeof add>) => {
      listeners++;
      add(...parameters);
    };
    signal.removeEventListener = (...parameters: Parameters<typeof remove>) => {
      listeners--;
      remove(...parameters);
    };
    const source = async function* (): AsyncGenerator<number> {
      yield* numbers(100);
    };
    await collect(cancellable(source(), signal));
    await Promise.resolve();
    expect(listeners).toBe(0);
  });
});
