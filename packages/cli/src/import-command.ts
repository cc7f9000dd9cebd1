import { open } from "node:fs/promises";
import { ingestTree, type Node, PiecePool, POOLED_PIECE_BYTES } from "@castore/castore";
import { createNarHasher, createThreadedSha256, ingestNar } from "@castore/nar-bridge";
import type { Command } from "commander";
import type { StoreOptions } from "./local-store.ts";
import { printImported } from "./print.ts";
import { createRateProgress } from "./progress.ts";
import { openServices } from "./remote-store.ts";
import { serviceCommand } from "./store-command.ts";

/** Pieces of a NAR that are read ahead: a read waits in the pool behind the syncs of files. */
const PIECES_AHEAD = 8;
/** Small files under way at once, as when a tree is imported. */
const PUTS_MAX = 4_096;
/** What waits for longer than that grows old, and costs full collections of garbage. */
const QUEUED_BYTES_MAX = 1 << 20;

export function importCommand(): Command {
  const command = serviceCommand(
    "import",
    "Put files and directories into a store; prints one JSON line for each.",
  ).argument("<path...>", "files or directories");
  return command.action(async (paths: readonly string[]) => {
    await using opened = await openServices(command.opts<StoreOptions>());
    const { services } = opened;
    for (const path of paths) {
      const hasher = createNarHasher(createThreadedSha256());
      let node: Node;
      {
        using progress = createRateProgress(path);
        const contents = (piece: Uint8Array) => {
          progress.add(piece.byteLength);
          hasher.contents?.(piece);
        };
        node = await ingestTree(path, { ...services, visitor: { ...hasher, contents } });
      }
      printImported(path, node, hasher.finish());
    }
  });
}

export function importNarCommand(): Command {
  const command = serviceCommand(
    "import-nar",
    "Put the contents of a NAR (uncompressed) into a store.",
  ).argument("<file>", 'the NAR; "-" reads stdin');
  return command.action(async (file: string) => {
    await using opened = await openServices(command.opts<StoreOptions>());
    const pool = new PiecePool();
    const source = file === "-" ? process.stdin : piecesOf(file, pool);
    const counted = async function* () {
      using progress = createRateProgress(file === "-" ? "standard input" : file);
      for await (const piece of source) {
        progress.add(piece.byteLength);
        yield piece;
      }
    };
    const ingested = await ingestNar(counted(), opened.services, {
      hash: createThreadedSha256(),
      queuedBytesMax: QUEUED_BYTES_MAX,
      putsMax: PUTS_MAX,
      release: pool.give,
    });
    printImported(file, ingested.node, ingested);
  });
}

/** The file's bytes: with Node's pieces of 64 KiB all took twice as long. */
async function* piecesOf(path: string, pool: PiecePool): AsyncGenerator<Buffer, void, undefined> {
  await using file = await open(path);
  const isRegular = (await file.stat()).isFile();
  let position = 0;
  const read = async (): Promise<Buffer> => {
    const piece = pool.take(POOLED_PIECE_BYTES);
    const at = isRegular ? position : null;
    position += piece.byteLength;
    const { bytesRead } = await file.read(piece, 0, piece.byteLength, at);
    return piece.subarray(0, bytesRead);
  };
  const reads: Promise<Buffer>[] = [];
  const begin = (): void => {
    const reading = read();
    // A failure shows when its turn comes.
    reading.catch(() => {});
    reads.push(reading);
  };
  // Of a pipe, two reads at once might come in any order.
  while (reads.length < (isRegular ? PIECES_AHEAD : 1)) begin();
  try {
    for (let piece = await reads.shift(); piece?.byteLength; piece = await reads.shift()) {
      begin();
      yield piece;
    }
  } finally {
    // The file must not be closed under a read.
    await Promise.allSettled(reads);
  }
}
