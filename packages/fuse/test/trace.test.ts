import { readFile, writeFile } from "node:fs/promises";
import {
  type BlobService,
  type Digest,
  parsePathComponent,
  pathComponentOfText,
} from "@castore/castore";
import { describe, expect, it } from "vitest";
import { formatTouch, parseTrace } from "../src/trace.ts";
import { createMemoryStore, mountTemporary, output, temporaryDirectory } from "./mount-fixture.ts";
import { storePath } from "./store-path.js";

describe("a line of a trace", () => {
  it("keeps any byte of a name", () => {
    const bytes = Buffer.from(Uint8Array.from({ length: 255 }, (_, i) => i + 1)).filter(
      (byte) => byte !== 0x2f,
    );
    const path = [pathComponentOfText("root"), parsePathComponent(bytes)];
    const line = formatTouch({ path, start: 0, end: 7 });
    expect(line).toMatch(/^0 7 root\/[!-~]+$/);
    expect(parseTrace(`${line}\n`)).toEqual([{ path, start: 0, end: 7 }]);
  });

  it("that is none is refused by its number", () => {
    for (const line of ["x", "1 0 a", "0 1", "0 1 ", "-1 1 a", "0 1 a/../b", "0 1 a//b", "0 1 é"]) {
      expect(() => parseTrace(`0 1 fine\n${line}\n`), line).toThrow();
    }
    expect(() => parseTrace("0 1 fine\nx\n")).toThrow(/line 2/);
  });
});

describe("a mount", () => {
  async function makeStore() {
    const base = await temporaryDirectory();
    await output(`mkdir -p '${base}/tree/a' '${base}/tree/b'; cd '${base}/tree'
      head -c 400000 /dev/urandom >a/large; echo 1 >b/small; echo 2 >b/unused; printf x >'b/a b'`);
    const store = createMemoryStore();
    const node = await storePath(store, `${base}/tree`);
    store.roots.set(pathComponentOfText("t"), { node });
    const opened: Digest[] = [];
    const blobs: BlobService = {
      ...store.blobs,
      async open(digest, options) {
        opened.push(digest);
        return store.blobs.open(digest, options);
      },
    };
    return { ...store, blobs, base, opened, remove: () => output(`rm -r '${base}'`) };
  }

  it("records what is touched, in order, each piece once", async () => {
    const { base, opened: _, remove, ...store } = await makeStore();
    const trace = `${base}/trace`;
    await using m = await mountTemporary(store, { trace });
    const at = `${m.base}/mnt/t`;
    await output(
      `cat '${at}/b/a b'; tail -c 1000 '${at}/a/large' >&2; cat '${at}/b/a b'; ls '${at}/a'`,
    );
    await m.mount.unmount();
    const lines = (await readFile(trace, "latin1")).trim().split("\n");
    expect(lines[0]).toBe("0 1 t/b/a%20b");
    expect(lines[1]).toMatch(/^\d+ 400000 t\/a\/large$/);
    expect(lines).toContain("0 0 t/a");
    expect(lines.filter((line) => line.endsWith("a%20b")).length).toBe(1);
    expect(lines.join("\n")).not.toContain("unused");
    await remove();
  });

  it("loads what a trace names before anyone asks, and passes over what is gone", async () => {
    const { base, opened, remove, ...store } = await makeStore();
    const prefetch = `${base}/trace`;
    const lines = ["0 1 t/b/a%20b", "0 9 gone/x", "0 1 t/nothing", "0 400000 t/a/large", "0 0 t/a"];
    await writeFile(prefetch, `${lines.join("\n")}\n`);
    let done: () => void = () => {};
    const finished = new Promise<void>((resolve) => {
      done = resolve;
    });
    const log: string[] = [];
    await using m = await mountTemporary(store, {
      prefetch,
      log: (line) => {
        log.push(line);
        done();
      },
    });
    await finished;
    expect(log).toEqual(["prefetched 3 of 5 pieces"]);
    const before = opened.length;
    const large = `${base}/tree/a/large`;
    expect(
      await output(`cmp '${m.base}/mnt/t/a/large' '${large}'; cat '${m.base}/mnt/t/b/a b'`),
    ).toBe("x");
    expect(opened.length).toBe(before);
    await remove();
  });

  it("whose trace cannot be read or written says so, and serves", async () => {
    const { base, opened: _, remove, ...store } = await makeStore();
    await writeFile(`${base}/bad`, "bad\n");
    await using m = await mountTemporary(store, {
      prefetch: `${base}/bad`,
      trace: `${base}/absent/trace`,
    });
    expect(await output(`cat '${m.base}/mnt/t/b/small'`)).toBe("1\n");
    await m.mount.unmount();
    expect(m.log.join("\n")).toMatch(/line 1/);
    expect(m.log.join("\n")).toMatch(/ENOENT/);
    await remove();
  });
});
