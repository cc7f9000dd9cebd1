import { describe, expect, test } from "vitest";
import { type Actor, explore, type Step } from "./interleavings.ts";

/**
 * The protocol of docs/local-store.md, Collecting garbage, with one directory D that refers to one
 * blob B. Every step is what the store does in one transaction, or in one read.
 */
interface State {
  epoch: number;
  rows: { D: boolean; B: boolean };
  condemned: { D?: number; B?: number };
  /** Directories that were met while they were condemned. */
  seen: boolean;
  roots: string[];
  /** Roots put while a collection runs. */
  log: string[];
  writer: { at: string; since?: number; holds: { D: boolean; B: boolean } };
  owner: { done: boolean };
  collector: { at: string; runs: number; heard: number; limit: number; keep: boolean; c: number };
}

/** What a broken protocol leaves out; each must be found out. */
interface Omissions {
  readonly waiting?: boolean;
  readonly log?: boolean;
  readonly seen?: boolean;
  readonly parentsFirst?: boolean;
  readonly rescueOnPut?: boolean;
}

const RUNS = 2;

function initialState(): State {
  return {
    epoch: 1,
    rows: { D: true, B: true },
    condemned: {},
    seen: false,
    roots: ["old"],
    log: [],
    writer: { at: "idle", holds: { D: false, B: false } },
    owner: { done: false },
    collector: { at: "idle", runs: 0, heard: 0, limit: 0, keep: false, c: 0 },
  };
}

/** Removes the root that there was in the beginning, at some time. */
const owner: Actor<State> = (state) =>
  state.owner.done
    ? []
    : [
        (next) => {
          next.owner.done = true;
          next.roots = next.roots.filter((root) => root !== "old");
          return undefined;
        },
      ];

function meet(state: State, kind: "D" | "B", left: Omissions): void {
  if (state.condemned[kind] === undefined) return;
  if (kind === "B") delete state.condemned.B;
  else if (!left.seen) state.seen = true;
}

/**
 * Looks for D, and where it is absent, for B; puts what is absent, then a root, with a lease held.
 * Or puts both at once.
 * A writer that finds D asks no more: D's closure comes with it.
 */
function writer(left: Omissions): Actor<State> {
  const go = (at: string, change: (state: State) => void = () => {}): Step<State> => {
    return (state) => {
      change(state);
      state.writer.at = at;
      return undefined;
    };
  };
  /** A read, and then, if the object was condemned, a transaction that looks again. */
  const ask = (kind: "D" | "B", found: string, absent: string) => (state: State) => {
    if (!state.rows[kind]) return [go(absent)];
    if (state.condemned[kind] !== undefined) return [go(`see ${kind}`)];
    return [
      go(found, (next) => {
        next.writer.holds[kind] = true;
        if (kind === "D") next.writer.holds.B = true;
      }),
    ];
  };
  const look = (kind: "D" | "B", found: string, absent: string) => (state: State) => [
    go(state.rows[kind] ? found : absent, (next) => {
      if (!next.rows[kind]) return;
      meet(next, kind, left);
      next.writer.holds[kind] = true;
      if (kind === "D") next.writer.holds.B = true;
    }),
  ];
  const put = (kind: "D" | "B", to: string): Step<State>[] => [
    go(to, (next) => {
      if (next.rows[kind] && !left.rescueOnPut) meet(next, kind, left);
      if (kind === "B" && !left.rescueOnPut) delete next.condemned.B;
      next.rows[kind] = true;
      next.writer.holds[kind] = true;
    }),
  ];
  const program: Record<string, (state: State) => Step<State>[]> = {
    // Small blobs and directories are put without a look.
    idle: () =>
      ["ask D", "put B"].map((at) =>
        go(at, (next) => {
          next.writer.since = next.epoch;
        }),
      ),
    "ask D": ask("D", "root", "ask B"),
    "see D": look("D", "root", "ask B"),
    "ask B": ask("B", "put D", "put B"),
    "see B": look("B", "put D", "put B"),
    "put B": () => put("B", "put D"),
    "put D": () => put("D", "root"),
    root: () => [
      go("release", (next) => {
        if (!next.rows.D) return;
        meet(next, "D", left);
        next.roots.push("new");
        if (next.collector.at !== "idle" && !left.log) next.log.push("new");
      }),
    ],
    release: () => [
      go("end", (next) => {
        delete next.writer.since;
        next.writer.holds = { D: false, B: false };
      }),
    ],
  };
  return (state) => program[state.writer.at]?.(state) ?? [];
}

/** Collects RUNS times; may end at any moment, and begin anew. */
function collector(left: Omissions): Actor<State> {
  const go = (at: string, change: (state: State) => void = () => {}): Step<State> => {
    return (state) => {
      change(state);
      state.collector.at = at;
      return undefined;
    };
  };
  const spareAll = (state: State): void => {
    state.condemned = {};
  };
  const rescue = (state: State): void => {
    if (state.seen && state.rows.D) spareAll(state);
    state.seen = false;
  };
  const condemn = (kind: "D" | "B") => (state: State) => {
    const { keep, c } = state.collector;
    if (keep) delete state.condemned[kind];
    else if (state.rows[kind]) state.condemned[kind] ??= c;
  };
  const remove = (kind: "D" | "B", to: string): Step<State>[] => [
    (state) => {
      const { limit, heard } = state.collector;
      if (state.log.length > heard || state.seen) {
        // News: what new roots need and what was seen is spared, then this step is tried again.
        if (state.log.length > heard && state.rows.D) spareAll(state);
        state.collector.heard = state.log.length;
        rescue(state);
        return undefined;
      }
      const epoch = state.condemned[kind];
      if (epoch !== undefined && epoch < limit) {
        state.rows[kind] = false;
        delete state.condemned[kind];
      }
      state.collector.at = to;
      return undefined;
    },
  ];
  const [first, second] = left.parentsFirst ? (["B", "D"] as const) : (["D", "B"] as const);
  const program: Record<string, (state: State) => Step<State>[]> = {
    idle: (state) =>
      state.collector.runs === RUNS
        ? []
        : [
            go("rescue", (next) => {
              next.collector.runs++;
              next.collector.heard = 0;
              next.log = [];
            }),
          ],
    rescue: () => [go("mark", rescue)],
    mark: () => [
      go("condemn D", (next) => {
        next.collector.keep = next.roots.length > 0;
        next.collector.c = next.epoch;
      }),
    ],
    "condemn D": () => [go("condemn B", condemn("D"))],
    "condemn B": () => [go("next epoch", condemn("B"))],
    "next epoch": () => [
      go("wait", (next) => {
        next.epoch++;
      }),
    ],
    // Goes on at any time: what leases hold stays condemned for a later run.
    wait: () => [
      go("delete 1", (next) => {
        const since = left.waiting ? undefined : next.writer.since;
        next.collector.limit = Math.min(next.epoch, since ?? next.epoch);
      }),
    ],
    "delete 1": () => remove(first, "delete 2"),
    "delete 2": () => remove(second, "idle"),
  };
  return (state) => {
    const steps = program[state.collector.at]?.(state) ?? [];
    return state.collector.at === "idle" ? steps : [...steps, go("idle")];
  };
}

/** No root lacks anything, and nothing goes that a lease holds. */
function check(state: State): void {
  const { rows, roots } = state;
  if (roots.length > 0 && !(rows.D && rows.B)) throw new Error("a root dangles");
  const { holds } = state.writer;
  if ((holds.D && !rows.D) || (holds.B && !rows.B)) throw new Error("a lease did not hold");
}

function exploreProtocol(left: Omissions): number {
  return explore(initialState(), [owner, writer(left), collector(left)], check);
}

describe("the collection protocol, in every order of its steps", () => {
  test("no root ever dangles, and leases hold what they should", () => {
    expect(exploreProtocol({})).toBeGreaterThan(1000);
  });

  test.each<Omissions>([
    { waiting: true },
    { log: true },
    { seen: true },
    { rescueOnPut: true },
    { parentsFirst: true },
  ])("without %j it is broken", (left) => {
    expect(() => exploreProtocol(left)).toThrow(/dangles|did not hold/);
  });
});
