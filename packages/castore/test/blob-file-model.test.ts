import { describe, expect, test } from "vitest";
import { type Actor, explore, type Step } from "./interleavings.ts";

const RUNS = 2;

/** One blob's row and file, put by two processes of which one may die. */
interface FileState {
  epoch: number;
  row: boolean;
  file: boolean;
  condemned?: number;
  unlink?: number;
  puts: { at: string; since?: number }[];
  collector: { at: string; runs: number; limit: number; c: number };
}

interface FileOmissions {
  readonly forgetUnlink?: boolean;
  readonly unlinkAfterwards?: boolean;
}

function putFile(index: number, left: FileOmissions): Actor<FileState> {
  const go = (at: string, change: (state: FileState) => void = () => {}): Step<FileState> => {
    return (state) => {
      change(state);
      const put = state.puts[index];
      if (put !== undefined) put.at = at;
      return undefined;
    };
  };
  const end = (state: FileState): void => {
    delete state.puts[index]?.since;
  };
  const program: Record<string, (state: FileState) => Step<FileState>[]> = {
    idle: () => [
      go("look", (next) => {
        const put = next.puts[index];
        if (put !== undefined) put.since = next.epoch;
      }),
    ],
    look: (state) => {
      if (!state.row) return [go("look for unlink")];
      return [state.condemned === undefined ? go("commit") : go("see")];
    },
    see: () => [
      (next) => {
        const there = next.row;
        if (there) delete next.condemned;
        return go(there ? "commit" : "look for unlink")(next);
      },
    ],
    "look for unlink": (state) =>
      state.unlink === undefined || left.forgetUnlink ? [go("rename")] : [go("forget unlink")],
    "forget unlink": () => [
      go("rename", (next) => {
        delete next.unlink;
      }),
    ],
    rename: () => [
      go("commit", (next) => {
        next.file = true;
      }),
    ],
    commit: () => [
      go("end", (next) => {
        next.row = true;
        delete next.condemned;
        delete next.unlink;
        end(next);
      }),
    ],
  };
  return (state) => {
    const at = state.puts[index]?.at ?? "end";
    const steps = program[at]?.(state) ?? [];
    // The second process may die at any moment; its lease dies with it.
    return index === 1 && at !== "end" ? [...steps, go("end", end)] : steps;
  };
}

function collectFile(left: FileOmissions): Actor<FileState> {
  const go = (at: string, change: (state: FileState) => void = () => {}): Step<FileState> => {
    return (state) => {
      change(state);
      state.collector.at = at;
      return undefined;
    };
  };
  const program: Record<string, (state: FileState) => Step<FileState>[]> = {
    idle: (state) =>
      state.collector.runs === RUNS
        ? []
        : [
            go("condemn", (next) => {
              next.collector.runs++;
              next.collector.c = next.epoch;
            }),
          ],
    // Nothing refers to the blob: it is always garbage.
    condemn: () => [
      go("condemn orphan", (next) => {
        if (next.row) next.condemned ??= next.collector.c;
      }),
    ],
    "condemn orphan": () => [
      go("next epoch", (next) => {
        if (next.file && !next.row) next.unlink ??= next.collector.c;
      }),
    ],
    "next epoch": () => [
      go("wait", (next) => {
        next.epoch++;
      }),
    ],
    wait: () => [
      go("delete", (next) => {
        const held = next.puts.map(({ since }) => since ?? next.epoch);
        next.collector.limit = Math.min(next.epoch, ...held);
      }),
    ],
    delete: () => [
      go("unlink", (next) => {
        if (next.condemned === undefined || next.condemned >= next.collector.limit) return;
        next.row = false;
        delete next.condemned;
        if (!left.unlinkAfterwards) next.unlink = 0;
      }),
    ],
    unlink: () => [
      go("idle", (next) => {
        if (left.unlinkAfterwards && !next.row) {
          next.file = false;
          return;
        }
        if (next.unlink === undefined || next.unlink >= next.collector.limit) return;
        if (!next.row) next.file = false;
        delete next.unlink;
      }),
    ],
  };
  return (state) => {
    const steps = program[state.collector.at]?.(state) ?? [];
    return state.collector.at === "idle" ? steps : [...steps, go("idle")];
  };
}

function exploreFiles(left: FileOmissions): number {
  const initial: FileState = {
    epoch: 1,
    row: false,
    file: false,
    puts: [{ at: "idle" }, { at: "idle" }],
    collector: { at: "idle", runs: 0, limit: 0, c: 0 },
  };
  const actors = [putFile(0, left), putFile(1, left), collectFile(left)];
  return explore(initial, actors, ({ row, file }) => {
    if (row && !file) throw new Error("a row has no file");
  });
}

describe("files and their rows, in every order of the steps", () => {
  test("a row never lacks its file", () => {
    expect(exploreFiles({})).toBeGreaterThan(1000);
  });

  test.each<FileOmissions>([{ forgetUnlink: true }, { unlinkAfterwards: true }])(
    "with %j it would",
    (left) => {
      expect(() => exploreFiles(left)).toThrow("a row has no file");
    },
  );
});
