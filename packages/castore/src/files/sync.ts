import { open } from "node:fs/promises";

/** Makes changes to directories durable, many changes with one fsync. */
export interface GroupSync {
  /** Resolves once all that was done to the directory before the call is durable. */
  sync(path: string): Promise<void>;
}

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
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
