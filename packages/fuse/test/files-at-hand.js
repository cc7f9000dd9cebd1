import { existsSync, readFileSync } from "node:fs";

/** A DirectContent of files of the host; of them `absent` is not at hand before `until` is there. */
export function openDirectContent(argument) {
  const { files, absent, until } = JSON.parse(argument);
  return {
    read(digest, { start, end, at }, target) {
      const path = files[digest.toString("hex")];
      if (path === undefined || (path === absent && !existsSync(until))) return false;
      readFileSync(path).copy(target, at, start, end);
      return true;
    },
    descriptor: () => undefined,
    close() {},
  };
}
