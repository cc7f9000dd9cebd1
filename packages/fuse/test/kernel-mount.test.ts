import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, rm } from "node:fs/promises";
import { type PathComponent, pathComponentOfText } from "@castore/castore";
import { expect, it } from "vitest";
import { compareTrees } from "../../../test/support/compare-trees.ts";
import { buildKernelImage } from "../src/kernel-image.ts";
import { type KernelMountOptions, mountKernel } from "../src/kernel-mount.ts";
import { createMemoryStore, output, temporaryDirectory } from "./mount-fixture.ts";
import { storePath } from "./store-path.js";

async function makeStore(lazy: boolean) {
  const base = await temporaryDirectory();
  await output(`mkdir -p '${base}/mnt' '${base}/tree/sub'; cd '${base}/tree'
    head -c 700000 /dev/urandom >sub/large; echo small >small; ln -s sub/large link
    printf '#!/bin/sh\\necho ran\\n' >run; head -c 9000 /dev/zero | tr '\\0' '#' >>run
    find . -type f -exec chmod 444 {} +; chmod 555 run
    find . -type d -exec chmod 555 {} +; find . -exec touch -h -d @1 {} +`);
  const store = createMemoryStore();
  const node = await storePath(store, `${base}/tree`);
  const [a, b] = [pathComponentOfText("a"), pathComponentOfText("b")];
  store.roots.set(a, { node, lazy });
  store.roots.set(b, { node, lazy, references: [a] });
  return { ...store, base, a, b, mountpoint: `${base}/mnt` };
}

function mountOf(
  store: Awaited<ReturnType<typeof makeStore>>,
  names: readonly PathComponent[],
  options: Partial<KernelMountOptions> = {},
) {
  const image = () => buildKernelImage({ ...store, names });
  return mountKernel({ ...store, image, ...options });
}

async function remove({ base }: { base: string }): Promise<void> {
  await rm(base, { recursive: true });
}

it.each([
  ["at hand", false],
  ["lazy", true],
])("contents that are %s are read through the kernel's own file system", async (_, lazy) => {
  const store = await makeStore(lazy);
  const mount = await mountOf(store, [store.b]);
  expect(await output(`ls '${store.mountpoint}'`)).toBe("a\nb\n");
  const before = mount.requests();
  await output(`find '${store.mountpoint}' -printf '%s %m %l %p\n'; ls -lR '${store.mountpoint}'`);
  expect(mount.requests() - before).toBe(0);
  expect(await compareTrees(`${store.base}/tree`, `${store.mountpoint}/a`)).toEqual([]);
  expect(await compareTrees(`${store.base}/tree`, `${store.mountpoint}/b`)).toEqual([]);
  expect(mount.requests("READ")).toBeGreaterThan(0);
  expect(await output(`'${store.mountpoint}/a/run' 2>/dev/null`)).toContain("ran");
  expect(store.roots.held).toEqual(new Set<PathComponent>([store.a, store.b]));
  await mount.unmount();
  expect(await output("cat /proc/mounts")).not.toContain(store.base);
  await remove(store);
});

it("a larger set goes over a smaller one, which its users keep", async () => {
  const store = await makeStore(false);
  const first = await mountOf(store, [store.a]);
  const old =
    output(`cd '${store.mountpoint}/a/sub'; until [ -e '${store.mountpoint}/b' ]; do :; done
    cmp large '${store.base}/tree/sub/large' && echo same`);
  const second = await mountOf(store, [store.b], { over: true });
  expect(await old).toBe("same\n");
  await second.unmount();
  expect(await output(`ls '${store.mountpoint}'`)).toBe("a\n");
  await first.close();
  await mkdir(`${store.mountpoint}/free`);
  await remove(store);
});

it("ends when it is closed although a copy of it is in another mount namespace", async () => {
  const store = await makeStore(true);
  const said: string[] = [];
  const log = (message: string) => said.push(message);
  const mount = await mountOf(store, [store.a], { log });
  const script = `echo ready; read line; cat '${store.mountpoint}/a/sub/large' >/dev/null`;
  const user = spawn("unshare", ["-m", "--propagation", "private", "sh", "-c", script]);
  await once(user.stdout, "data");
  await mount.close();
  expect(said.join("\n")).toContain("gets errors now");
  const exited = once(user, "exit");
  user.stdin.end("\n");
  expect((await exited)[0]).not.toBe(0);
  await remove(store);
});
