import { close, fsync, open } from "node:fs";
import { promisify } from "node:util";

/** Makes changes to directories durable, many changes with one fsync. */
export interface GroupSync {
  /** Resolves once all that was done to the directory before the call is durable. */
  sync(path: string): Promise<void>;
  /** Closes what it has open, once nothing is under way. Nothing may be synced afterwards. */
  close(): Promise<void>;
}

export interface GroupSyncOptions {
  /** Keeps each directory open until the end: for few that are synced often. */
  readonly keepOpen?: boolean;
}

// A FileHandle costs more than what is done with it here.
const openPath = promisify(open);
const syncDescriptor = promisify(fsync);
const closeDescriptor = promisify(close);

/** A call that comes while its directory syncs waits for the next sync, together with others. */
export function createGroupSync({ keepOpen = false }: GroupSyncOptions = {}): GroupSync {
  const running = new Map<string, Promise<void>>();
  const waiting = new Map<string, Promise<void>>();
  const kept = new Map<string, number>();
  const syncKept = async (path: string): Promise<void> => {
    let descriptor = kept.get(path);
    if (descriptor === undefined) {
      descriptor = await openPath(path, "r");
      kept.set(path, descriptor);
    }
    await syncDescriptor(descriptor);
  };
  const start = (path: string): Promise<void> => {
    const sync = (keepOpen ? syncKept(path) : syncPath(path)).finally(() => running.delete(path));
    running.set(path, sync);
    return sync;
  };
  return {
    sync(path) {
      const current = running.get(path);
      if (current === undefined) return start(path);
      const next =
        waiting.get(path) ??
        current
          .catch(() => {})
          .then(() => {
            waiting.delete(path);
            return start(path);
          });
      waiting.set(path, next);
      return next;
    },
    async close() {
      while (running.size > 0) await Promise.allSettled(running.values());
      const descriptors = [...kept.values()];
      kept.clear();
      await Promise.all(descriptors.map((descriptor) => closeDescriptor(descriptor)));
    },
  };
}

/** Makes durable what was done to the directory or file at `path`. */
export async function syncPath(path: string): Promise<void> {
  const descriptor = await openPath(path, "r");
  try {
    await syncDescriptor(descriptor);
  } finally {
    await closeDescriptor(descriptor);
  }
}
