import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const here = new URL(".", import.meta.url);
const KERNELS = ["kernel", "blake3"];

/** Compiles kernel.ts and blake3.ts to dist/, unless those are newer; about four seconds each. */
export async function buildKernel() {
  for (const name of KERNELS) await compile(name);
}

/** @param {string} name */
async function compile(name) {
  const source = new URL(`${name}.ts`, here);
  const target = new URL(`../dist/${name}.wasm`, here);
  const built = statSync(target, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const inputs = [source, new URL("build.js", here)];
  if (inputs.every((input) => statSync(input).mtimeMs < built)) return;
  const { default: asc } = await import("assemblyscript/asc");
  const features = ["--enable", "bulk-memory", "--enable", "simd"];
  const options = ["-O3", "--noAssert", "--runtime", "stub", ...features];
  /** @type {Uint8Array | undefined} */
  let wasm;
  const { error, stderr } = await asc.main(["source.ts", "--outFile", "out.wasm", ...options], {
    readFile: (file) => (file === "source.ts" ? readFileSync(source, "utf8") : null),
    writeFile: (file, contents) => {
      if (file === "out.wasm" && typeof contents !== "string") wasm = contents;
    },
    listFiles: () => [],
  });
  if (error !== null || wasm === undefined) throw new Error(`${name}.ts: ${error}\n${stderr}`);
  await mkdir(new URL(".", target), { recursive: true });
  // Renamed into place: several processes may build at once.
  const temporary = new URL(`${name}.wasm.${process.pid}`, target);
  writeFileSync(temporary, wasm);
  renameSync(temporary, target);
}

/** vitest's globalSetup calls this. */
export const setup = buildKernel;

if (process.argv[1] === fileURLToPath(import.meta.url)) await buildKernel();
