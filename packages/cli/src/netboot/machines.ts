import type { Socket } from "node:net";

/** What a machine is called: the address of the card that it booted from. */
export type MachineName = string;

/** What an address has been sent so far, in bytes on the wire. */
export interface Traffic {
  /** Kernel, initrd, script and configuration. */
  readonly bootBytes: number;
  /** Everything else: the store. */
  readonly storeBytes: number;
  readonly storeRequests: number;
}

export interface Machine extends Traffic {
  readonly name: MachineName;
  readonly address: string;
  /** What it said last that it does. */
  readonly stage: string;
  /** When it was first seen, and when its stage began: milliseconds since 1970. */
  readonly since: number;
  readonly stageSince: number;
}

/** More machines or addresses than this, and those seen first are forgotten. */
const KNOWN_MAX = 10_000;
const STAGE_CHARACTERS_MAX = 200;

/** `text` as a machine's name, or undefined. */
export function parseMachineName(text: string): MachineName | undefined {
  const name = text.toLowerCase().replaceAll("-", ":");
  return /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(name) ? name : undefined;
}

interface Counted {
  boot: number;
  store: number;
  storeRequests: number;
}

/** Who boots here, how far they are, and what they were sent. Kept in memory only. */
export class Machines {
  readonly #traffic = new Map<string, Counted>();
  readonly #machines = new Map<MachineName, Omit<Machine, keyof Traffic>>();
  readonly #underWay = new Set<() => void>();

  /** Counts what is written to `socket` until the returned function is called. */
  count(address: string, kind: "boot" | "store", socket: Socket): () => void {
    let counted = socket.bytesWritten;
    const traffic = this.#trafficOf(address);
    if (kind === "store") traffic.storeRequests++;
    const add = () => {
      traffic[kind] += socket.bytesWritten - counted;
      counted = socket.bytesWritten;
    };
    this.#underWay.add(add);
    return () => {
      add();
      this.#underWay.delete(add);
    };
  }

  /** Notes what a machine does. A new boot of the same machine starts its clock again. */
  enter(name: MachineName, address: string, stage: string): void {
    const now = Date.now();
    const known = this.#machines.get(name);
    const isNew = known === undefined || stage === STARTED;
    remember(this.#machines, name, {
      name,
      address,
      stage: stage.slice(0, STAGE_CHARACTERS_MAX),
      since: isNew ? now : known.since,
      stageSince: now,
    });
  }

  list(): Machine[] {
    for (const add of this.#underWay) add();
    return [...this.#machines.values()].map((machine) => {
      const { boot, store, storeRequests } = this.#trafficOf(machine.address);
      return { ...machine, bootBytes: boot, storeBytes: store, storeRequests };
    });
  }

  #trafficOf(address: string): Counted {
    const known = this.#traffic.get(address);
    if (known !== undefined) return known;
    return remember(this.#traffic, address, { boot: 0, store: 0, storeRequests: 0 });
  }
}

/** The stage in which a machine fetches its configuration. */
export const STARTED = "has fetched its configuration";

function remember<K, V>(map: Map<K, V>, key: K, value: V): V {
  map.set(key, value);
  const [oldest] = map.keys();
  if (map.size > KNOWN_MAX && oldest !== undefined) map.delete(oldest);
  return value;
}
