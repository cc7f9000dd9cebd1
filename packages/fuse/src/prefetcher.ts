import { readFile } from "node:fs/promises";
import type { PathComponent } from "@castore/castore";
import type { ContentLoader } from "./content-loader.ts";
import { TYPE } from "./inode-table.ts";
import type { InodeWriter } from "./inode-writer.ts";
import { parseTrace, type Touch } from "./trace.ts";
import type { TreeLoader } from "./tree-loader.ts";

/** Pieces at once while no program waits, and while one does: those under way share requests. */
const LANES = 64;
const LANES_BEHIND = 16;

export interface PrefetchSources {
  readonly table: InodeWriter;
  readonly tree: TreeLoader;
  readonly contents: ContentLoader;
  /** How many requests of programs wait. */
  readonly waiting: () => number;
  readonly log: (message: string) => void;
  readonly signal: AbortSignal;
}

/**
 * Loads what a trace says, in its order and ahead of demand, most of it while no program waits.
 * What fails is left to whoever needs it. Rejects INVALID where the file is no trace.
 */
export async function prefetchTrace(path: string, sources: PrefetchSources): Promise<void> {
  const touches = parseTrace(await readFile(path, "latin1"));
  const { log, signal, waiting } = sources;
  let failed = 0;
  let lanes = 0;
  let next = 0;
  await new Promise<void>((resolve) => {
    const proceed = (): void => {
      while (lanes < (waiting() === 0 ? LANES : LANES_BEHIND)) {
        const touch = signal.aborted ? undefined : touches[next++];
        if (touch === undefined) break;
        lanes++;
        load(touch, sources)
          .catch(() => failed++)
          .finally(() => {
            lanes--;
            proceed();
          });
      }
      if (lanes === 0) resolve();
    };
    proceed();
  });
  log(`prefetched ${touches.length - failed} of ${touches.length} pieces`);
}

async function load({ path, start, end }: Touch, sources: PrefetchSources): Promise<void> {
  const { table, tree, contents } = sources;
  const [root, ...below] = path;
  if (root === undefined || !(await tree.rootName(root))) throw new Error("absent");
  let id = table.findRoot(root);
  for (const name of below) {
    await tree.entries(id);
    id = childOf(table, id, name);
    if (id === 0) throw new Error("absent");
  }
  const type = table.typeOf(id);
  if (type === TYPE.DIRECTORY) await tree.entries(id);
  const last = Math.min(end, table.sizeOf(id));
  if ((type !== TYPE.FILE && type !== TYPE.EXECUTABLE) || start >= last) return;
  await contents.load({ id, start, end: last });
}

function childOf(table: InodeWriter, directory: number, name: PathComponent): number {
  const buffer = Buffer.from(name, "latin1");
  return table.child(directory, { buffer, nameStart: 0, nameLength: buffer.length });
}
