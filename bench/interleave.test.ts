import { expect, it } from "vitest";
import { formatGroup, median, runGroup } from "./interleave.ts";

it("runs the cases in turns, each round beginning with another", async () => {
  const order: string[] = [];
  const cases = ["a", "b", "c"].map((name) => ({
    name,
    measure: async () => {
      order.push(name);
      return { seconds: order.length, bytes: 7 };
    },
  }));
  await runGroup({ name: "group", cases }, 3);
  expect(order.join("")).toBe("abcbcacab");
});

it("reports medians, ratios to the first case, and a target that is not met", async () => {
  const times = { plain: [1, 9, 2, 1, 3], bridge: [4, 4, 4, 1, 9] };
  const cases = Object.entries(times).map(([name, seconds]) => ({
    name,
    measure: async () => ({ seconds: seconds.shift() ?? 0 }),
  }));
  const report = await runGroup({ name: "group", cases, targets: { bridge: 1.5 } }, 5);
  expect(report.cases.map(({ medians }) => medians.seconds)).toEqual([2, 4]);
  expect(report.cases[1]?.ratio).toBe(2);
  expect(report.isMet).toBe(false);
  expect(formatGroup(report)).toMatch(/bridge +4 +2.00× +over 1.5×/);
});

it("reports a median above its limit", async () => {
  const cases = [{ name: "get", measure: async () => ({ seconds: 1, p99: 60 }) }];
  const within = await runGroup({ name: "group", cases, limits: { get: { p99: 60 } } }, 1);
  expect(within.isMet).toBe(true);
  const over = await runGroup({ name: "group", cases, limits: { get: { p99: 50 } } }, 1);
  expect(over.isMet).toBe(false);
  expect(formatGroup(over)).toMatch(/p99 over 50/);
});

it("the median of an even count is the middle of the two", () => {
  expect(median([4, 1, 3, 2])).toBe(2.5);
  expect(median([5])).toBe(5);
});
