/**
 * A mount of a local store, in a process of its own: `node mount-program.js '{"store":…}'`. Says
 * "ready" once mounted, and for each line on standard input how many requests came and how many CPU
 * seconds passed; unmounts when that ends.
 */
import { createInterface } from "node:readline";
import { localDirectContent, openLocalStore, pathComponentOfText } from "@castore/castore";
import { buildKernelImage, mountKernel, mountStore } from "@castore/fuse";
import { createStoreRootNodes } from "@castore/nar-bridge";
import { pathInfosOf } from "./path-import.ts";

interface ProgramOptions {
  readonly store: string;
  readonly mountpoint: string;
  readonly passthrough: boolean;
  /** Mount these, with the kernel as the file system. */
  readonly kernel?: readonly string[];
}

const options: ProgramOptions = JSON.parse(process.argv[2] ?? "");
await using store = await openLocalStore({ path: options.store });
const roots = createStoreRootNodes({ store, pathInfos: pathInfosOf(store), pin: "bench-mount" });
const content = localDirectContent(store);
const { directories, blobs } = store;
// As castore mount does for root.
const readAheadKib = 1024;
const shared = { ...store, directories, blobs, roots, content, readAheadKib };
const { mountpoint, passthrough, kernel } = options;
const mount =
  kernel === undefined
    ? await mountStore({ ...shared, mountpoint, passthrough })
    : await mountKernel({
        ...shared,
        mountpoint,
        image: () =>
          buildKernelImage({ ...shared, names: kernel.map((k) => pathComponentOfText(k)) }),
      });
const input = createInterface({ input: process.stdin });
input.on("line", () => {
  const { user, system } = process.cpuUsage();
  console.log(JSON.stringify({ requests: mount.requests(), cpu: (user + system) / 1e6 }));
});
input.on("close", () => mount.close());
console.log("ready");
await mount.ended;
await roots.release();
