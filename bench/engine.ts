import { createBlobAnalyzer, createChunker, createNormalForm } from "@castore/castore";
import { type Benchmark, type BenchmarkOptions, type Group, timed } from "./benchmark.ts";
import { prepareEngineFiles } from "./engine-files.ts";
import { prepareEnginePaths } from "./engine-paths.ts";
import { pseudoRandomBytes } from "./sample-files.ts";

/** What the engine costs: import, import-nar, render, lookups and gc, and how each grows. */
export async function prepareEngine({ scale }: BenchmarkOptions): Promise<Benchmark> {
  const files = await prepareEngineFiles(scale);
  const paths = await prepareEnginePaths(scale);
  return {
    corpus: { scale, ...files.corpus, ...paths.corpus },
    groups: [...files.groups, kernelGroup(scale), ...paths.groups],
    async close() {
      await paths.close();
      await files.close();
    },
  };
}

const PIECE_BYTES = 1 << 20;
const REFERENCES = 50;

/** From memory: what one core cuts, and cuts, scans for references and hashes. */
function kernelGroup(scale: number): Group {
  const pieces = Math.max(1, Math.round(1024 * scale));
  const bytes = pieces * PIECE_BYTES;
  const piece = pseudoRandomBytes(PIECE_BYTES, 3);
  const measure = (push: (piece: Uint8Array) => unknown) => async () => {
    const seconds = await timed(async () => {
      for (let index = 0; index < pieces; index++) push(piece);
    });
    return { seconds, gigabytesPerSecond: bytes / seconds / 1e9 };
  };
  const references = Array.from({ length: REFERENCES }, (_, index) => `${index}`.padStart(32, "0"));
  return {
    name: `chunking kernel, ${bytes >> 20} MiB`,
    cases: [
      { name: "cut", measure: () => measure(pushTo(createChunker()))() },
      {
        name: `cut, normal form for ${REFERENCES} references, BLAKE3`,
        measure: () => measure(pushTo(createBlobAnalyzer(createNormalForm(references))))(),
      },
    ],
    limits: { cut: { seconds: bytes / 1e9 } },
  };
}

function pushTo(sink: { push(piece: Uint8Array): unknown }): (piece: Uint8Array) => unknown {
  return (piece) => sink.push(piece);
}
