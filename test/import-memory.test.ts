import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { castoreProgram, memoryOf } from "./support/castore-process.ts";

const FILE_BYTES = 4 * 2 ** 30;
const MEMORY_BYTES_MAX = 256 * 2 ** 20;
const SAMPLE_MS = 20;

it("a file of 4 GiB is imported in 256 MiB of memory", async () => {
  const directory = mkdtempSync(join(tmpdir(), "castore-memory-"));
  try {
    const file = join(directory, "file");
    await writeSparse(file);
    const args = ["import", "--store", join(directory, "store"), file];
    const child = spawn(process.execPath, [castoreProgram(), ...args], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const peak = peakMemory(child);
    let output = "";
    child.stdout.on("data", (text: Buffer) => {
      output += text.toString();
    });
    const [code] = await once(child, "close");
    expect(code).toBe(0);
    expect(JSON.parse(output).node).toMatchObject({ type: "file", size: FILE_BYTES });
    expect(peak()).toBeGreaterThan(0);
    expect(peak()).toBeLessThanOrEqual(MEMORY_BYTES_MAX);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}, 900_000);

/** Holes, but for a word in each 256 KiB: chunks are not alike, and nothing needs to be written. */
async function writeSparse(path: string): Promise<void> {
  await using file = await open(path, "w");
  await file.truncate(FILE_BYTES);
  const word = Buffer.alloc(4);
  for (let at = 0; at < FILE_BYTES; at += 1 << 18) {
    word.writeUInt32LE(at >>> 18);
    await file.write(word, 0, word.byteLength, at);
  }
}

function peakMemory(child: ChildProcess): () => number {
  let peak = 0;
  const timer = setInterval(() => {
    peak = Math.max(peak, memoryOf(child.pid ?? 0));
  }, SAMPLE_MS);
  child.once("close", () => clearInterval(timer));
  return () => peak;
}
