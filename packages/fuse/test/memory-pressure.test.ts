import { spawn } from "node:child_process";
import { once } from "node:events";
import { pathComponentOfText } from "@castore/castore";
import { expect, it } from "vitest";
import { createMemoryStore, mountTemporary, output, temporaryDirectory } from "./mount-fixture.ts";
import { storePath } from "./store-path.js";

it("what the kernel forgets comes back the same, and what is open stays", async () => {
  const base = await temporaryDirectory();
  await output(`mkdir -p '${base}/tree/sub'; cd '${base}/tree'; for i in $(seq 400); do
    echo $i >sub/$i; ln -s $i sub/link-$i; done`);
  const store = createMemoryStore();
  const node = await storePath(store, `${base}/tree`);
  store.roots.set(pathComponentOfText("t"), { node });
  await using m = await mountTemporary(store, { listRoot: true });
  const at = `${m.base}/mnt`;
  const list = "find . -printf '%i %s %l %P\\n' | sort";
  const look = `cd '${at}' && ${list} && cat t/sub/[0-9]* | sha256sum`;
  const before = await output(look);
  const held = spawn("bash", [
    "-c",
    `cd '${at}/t/sub'; exec 3<7; echo; read; cat <&3; cat 9; ls 11`,
  ]);
  await once(held.stdout, "data");
  // A remount shrinks the caches as a lack of memory does, of this file system only.
  await output(`mount -i -o remount,ro '${at}'`);
  await expect
    .poll(() => m.mount.requests("FORGET") + m.mount.requests("BATCH_FORGET"))
    .toBeGreaterThan(0);
  expect(await output(look)).toBe(before);
  let said = "";
  held.stdout.on("data", (text: Buffer) => {
    said += String(text);
  });
  const ended = once(held, "close");
  held.stdin.end("\n");
  expect((await ended)[0]).toBe(0);
  expect(said).toBe("7\n9\n11\n");
  await output(`rm -r '${base}'`);
});

it("read-ahead makes few requests of a file that is read in order", async () => {
  const bytes = Buffer.alloc(8 << 20, "0123456789");
  const store = createMemoryStore();
  const { digest, size } = await store.blobs.put([bytes]);
  const node = { type: "file", digest, size, executable: false } as const;
  store.roots.set(pathComponentOfText("f"), { node });
  const reads = async (readAheadKib?: number): Promise<number> => {
    await using m = await mountTemporary(store, { readAheadKib });
    expect(
      await output(`cmp '${m.base}/mnt/f' - < <(yes 0123456789 | tr -d '\\n' | head -c ${size})`),
    ).toBe("");
    return m.mount.requests("READ");
  };
  expect(await reads(1024)).toBeLessThan(20);
  expect(await reads(64)).toBeGreaterThan(100);
});
