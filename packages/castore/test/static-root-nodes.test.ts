import { expect, it } from "vitest";
import { EMPTY_DIGEST } from "../src/model/digest.ts";
import { pathComponentOfText } from "../src/model/path-component.ts";
import { createStaticRootNodes } from "../src/services/static-root-nodes.ts";
import { describeRootNodes } from "./root-nodes-suite.ts";

describeRootNodes("static root nodes", async () => {
  const roots = createStaticRootNodes();
  return {
    roots,
    async set(name, root) {
      roots.set(name, root);
    },
    async close() {},
  };
});

it("static root nodes remember what was held", async () => {
  const a = pathComponentOfText("a");
  const node = { type: "file", digest: EMPTY_DIGEST, size: 0, executable: false } as const;
  const roots = createStaticRootNodes([[a, { node }]]);
  await roots.hold([a, pathComponentOfText("absent")]);
  expect([...roots.held]).toEqual([a]);
});
