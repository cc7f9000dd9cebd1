import { describe, expect, it } from "vitest";
import { type Digest, EMPTY_DIGEST } from "../src/model/digest.ts";
import type { Node } from "../src/model/node.ts";
import { type PathComponent, pathComponentOfText } from "../src/model/path-component.ts";
import type { RootNodes } from "../src/services/root-nodes.ts";

/** What a suite needs to fill and change an implementation. */
export interface RootNodesFixture {
  readonly roots: RootNodes;
  /** Adds or replaces `name`, or removes it where `root` is undefined. */
  set(
    name: PathComponent,
    root: { readonly node: Node; readonly references: readonly PathComponent[] } | undefined,
  ): Promise<void>;
  close(): Promise<void>;
}

/** What every implementation of RootNodes must do. */
export function describeRootNodes(
  implementation: string,
  make: (names: readonly PathComponent[]) => Promise<RootNodesFixture>,
  names: readonly [PathComponent, PathComponent, PathComponent] = [
    pathComponentOfText("a"),
    pathComponentOfText("b"),
    pathComponentOfText("c"),
  ],
): void {
  const [a, b, c] = names;
  const file: Node = { type: "file", digest: EMPTY_DIGEST, size: 0, executable: false };
  const directory: Node = { type: "directory", digest: EMPTY_DIGEST as Digest, size: 0 };

  async function withRoots(body: (fixture: RootNodesFixture) => Promise<void>): Promise<void> {
    const fixture = await make(names);
    try {
      await fixture.set(a, { node: file, references: [] });
      await fixture.set(b, { node: directory, references: [a, b] });
      await body(fixture);
    } finally {
      await fixture.close();
    }
  }

  describe(`${implementation} as RootNodes`, () => {
    it("answers names that exist, and undefined for the others", () =>
      withRoots(async ({ roots }) => {
        expect((await roots.get(a))?.node).toEqual(file);
        expect((await roots.get(b))?.node).toEqual(directory);
        expect(await roots.get(c)).toBeUndefined();
      }));

    it("lists each name once", () =>
      withRoots(async ({ roots }) => {
        const listed = [];
        for await (const { name } of roots.list()) listed.push(name);
        expect(listed.sort()).toEqual([a, b].sort());
      }));

    it("gives the closure of names, each once", () =>
      withRoots(async ({ roots }) => {
        expect([...(await roots.closure([b, a]))].sort()).toEqual([a, b].sort());
        expect(await roots.closure([a])).toEqual([a]);
      }));

    it("refuses the closure of an absent name", () =>
      withRoots(async ({ roots }) => {
        await expect(roots.closure([c])).rejects.toMatchObject({ code: "INCOMPLETE" });
      }));

    it("tells what comes and goes, and ends when the signal aborts", () =>
      withRoots(async ({ roots, set }) => {
        const controller = new AbortController();
        const changes = roots.changes({ signal: controller.signal })[Symbol.asyncIterator]();
        const first = changes.next();
        await set(c, { node: file, references: [] });
        expect((await first).value).toMatchObject({ name: c, root: { node: file } });
        const second = changes.next();
        await set(c, undefined);
        expect((await second).value).toEqual({ name: c, root: undefined });
        const third = changes.next();
        controller.abort();
        expect((await third).done).toBe(true);
      }));

    it("holds names, and passes over absent ones", () =>
      withRoots(async ({ roots }) => {
        await roots.hold([a, c]);
        await roots.hold([a]);
      }));
  });
}
