import { expect, it } from "vitest";
import { createStretchMemory, StretchQueue } from "../src/stretch-queue.ts";

it("gives stretches in order, to another end of the same memory", () => {
  const memory = createStretchMemory();
  const [from, to] = [new StretchQueue(memory), new StretchQueue(memory)];
  for (let first = 1; first <= 100; first++) {
    from.put({ first, end: first + 10 });
    from.put({ first: first + 1000, end: first + 1010 });
    expect(to.take()).toEqual({ first, end: first + 10 });
    expect(to.take()).toEqual({ first: first + 1000, end: first + 1010 });
  }
});

it("drops the oldest where nobody takes them in time", () => {
  const queue = new StretchQueue(createStretchMemory());
  for (let first = 1; first <= 100; first++) queue.put({ first, end: first + 1 });
  for (let first = 86; first <= 100; first++) expect(queue.take()?.first).toBe(first);
});

it("gives nothing once it is closed", () => {
  const memory = createStretchMemory();
  const [from, to] = [new StretchQueue(memory), new StretchQueue(memory)];
  from.put({ first: 1, end: 2 });
  from.close();
  expect(to.take()).toBeUndefined();
});
