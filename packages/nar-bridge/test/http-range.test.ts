import { expect, test } from "vitest";
import { parseRange } from "../src/upstream/http-range.ts";

test.each([
  [undefined, undefined],
  ["bytes=0-", { start: 0, end: 100 }],
  ["bytes=10-19", { start: 10, end: 20 }],
  ["bytes=10-1000", { start: 10, end: 100 }],
  ["bytes=-10", { start: 90, end: 100 }],
  ["bytes=-100", undefined],
  ["bytes=-1000", undefined],
  ["bytes=-0", "unsatisfiable"],
  ["bytes=100-", "unsatisfiable"],
  ["bytes=5-6,8-9", { start: 5, end: 7 }],
  ["bytes=9-5", undefined],
  ["bytes=-", undefined],
  ["bytes=abc", undefined],
  ["items=0-5", undefined],
])("of 100 bytes %s asks for %o", (header, expected) => {
  expect(parseRange(header, 100)).toEqual(expected);
});
