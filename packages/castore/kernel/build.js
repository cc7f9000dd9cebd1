import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = new URL(".", import.meta.url);
const target = new URL("../dist/kernel.wasm", here);
const inputs = [new URL("kernel.ts", here), new URL("build.js", here)];

/** Compiles kernel.ts to dist/kernel.wasm unless that is newer; about four seconds. */
export async function buildKernel() {
  const built = statSync(target, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  if (inputs.every((input) => statSync(input).mtimeMs < built)) return;
  const { default: asc } = await import("assemblyscript/asc");
  const options = ["-O3", "--noAssert", "--runtime", "stub", "--enable", "bulk-memory"];
  /** @type {Uint8Array | undefined} */
  let wasm;
  const { error, stderr } = await asc.main(["kernel.ts", "--outFile", "kernel.wasm", ...options], {
    readFile: (name) => (name === "kernel.ts" ? readFileSync(new URL(name, here), "utf8") : null),
    writeFile: (name, contents) => {
      if (name === "kernel.wasm" && typeof contents !== "string") wasm = contents;
    },
    listFiles: () => [],
  });
  if (error !== null || wasm === undefined) throw new Error(`kernel.ts: ${error}\n${stderr}`);
  await mkdir(new URL(".", target), { recursive: true });
  // Renamed into place: several processes may build at once.
  const temporary = new URL(`kernel.wasm.${process.pid}`, target);
  writeFileSync(temporary, wasm);
  renameSync(temporary, target);
}

/** vitest's globalSetup calls this. */
export const setup = buildKernel;

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildKernel();
