import { close, fsync, open } from "node:fs";
import { promisify } from "node:util";

/** Makes changes to directories durable, many changes with one fsync. */
export interface GroupSync {
  /** Resolves once all that was done to the directory before the call is durable. */
  sync(path: string): Promise<void>;
}

// A FileHandle costs more than what is done with it here.
const openPath = promisify(open);
const syncDescriptor = promisify(fsync);
const closeDescriptor = promisify(close);

/** A call that comes while its directory syncs waits for the next sync, together with others. */
export function createGroupSync(): GroupSync {
  const running = new Map<string, Promise<void>>();
  const waiting = new Map<string, Promise<void>>();
  const start = (path: string): Promise<void> => {
    const sync = syncPath(path).finally(() => running.delete(path));
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
