import { existsSync, readFileSync, writeFileSync } from "node:fs";

/**
 * A DirectContent of files of the host. Of them `absent` is not at hand before `until` is there;
 * where `held` is given, who opens a file waits until that is there, and HELD.asked is made.
 */
export function openDirectContent(argument) {
  const { files, absent, until, held } = JSON.parse(argument);
  const pause = new Int32Array(new SharedArrayBuffer(4));
  return {
    read(digest, { start, end, at }, target) {
      const path = files[digest.toString("hex")];
      if (path === undefined || (path === absent && !existsSync(until))) return false;
      readFileSync(path).copy(target, at, start, end);
      return true;
    },
    descriptor() {
      if (held !== undefined) writeFileSync(`${held}.asked`, "");
      while (held !== undefined && !existsSync(held)) Atomics.wait(pause, 0, 0, 20);
      return undefined;
    },
    close() {},
  };
}
