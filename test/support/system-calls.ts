import { readFileSync } from "node:fs";

/** A system call as strace saw it: where it began and ended among all lines. */
export interface SystemCall {
  readonly name: string;
  readonly text: string;
  readonly began: number;
  readonly ended: number;
}

/** Parses what `strace -f -y -o path` has written. */
export function readSystemCalls(path: string): SystemCall[] {
  const calls: SystemCall[] = [];
  const open = new Map<string, { name: string; text: string; began: number }>();
  readFileSync(path, "latin1")
    .split("\n")
    .forEach((line, at) => {
      const [, thread = "", rest = ""] = /^(\d+)\s+(.*)$/.exec(line) ?? [];
      const resumed = /^<\.\.\. (\w+) resumed>(.*)$/.exec(rest);
      const begun = open.get(thread);
      if (resumed !== null && begun !== undefined) {
        calls.push({ ...begun, text: begun.text + (resumed[2] ?? ""), ended: at });
        open.delete(thread);
        return;
      }
      const name = /^(\w+)\(/.exec(rest)?.[1];
      if (name === undefined) return;
      if (rest.endsWith("<unfinished ...>")) open.set(thread, { name, text: rest, began: at });
      else calls.push({ name, text: rest, began: at, ended: at });
    });
  return calls;
}

/** The first call after line `after` whose name and text match. Throws where there is none. */
export function findCall(
  calls: readonly SystemCall[],
  name: RegExp,
  text: RegExp,
  after = -1,
): SystemCall {
  const found = calls.find(
    (call) => call.began > after && name.test(call.name) && text.test(call.text),
  );
  if (found === undefined) throw new Error(`no ${name} of ${text} after line ${after}`);
  return found;
}
