import { readlinkSync } from "node:fs";
import { uptime } from "node:os";
import { CastoreError } from "../castore-error.ts";
import { decodeNode, encodeNode } from "../model/node-codec.ts";
import type { Pin } from "../services/pin-store.ts";
import { bootId } from "./process-identity.ts";
import { sealRow, unsealRow } from "./row-checksum.ts";

/** A pin as it is written down, in JSON with a checksum. */
interface PinRow {
  readonly keys: readonly string[];
  /** Entries in base64url. */
  readonly nodes: readonly string[];
  readonly link?: { readonly path: string; readonly target: string };
  /** The boot that the pin was made in. */
  readonly boot: string;
  readonly untilReboot?: boolean;
  readonly ttlMs?: number;
  /** When it was made, by the clock and since the boot. */
  readonly madeMs: number;
  readonly madeUptimeMs: number;
}

export function encodePin({ keys, nodes, link, untilReboot, ttlMs }: Pin): Buffer {
  const row: PinRow = {
    keys,
    nodes: nodes.map((node) => encodeNode(node).toString("base64url")),
    boot: bootId(),
    madeMs: Date.now(),
    madeUptimeMs: uptime() * 1000,
    ...(link === undefined ? {} : { link }),
    ...(untilReboot === undefined ? {} : { untilReboot }),
    ...(ttlMs === undefined ? {} : { ttlMs }),
  };
  return sealRow(Buffer.from(JSON.stringify(row)));
}

/** Rejects CORRUPT where the row cannot be read. */
export function decodePin(name: string, bytes: Uint8Array): Pin & { readonly holds: boolean } {
  try {
    const row = JSON.parse(unsealRow(bytes).toString("utf8")) as PinRow;
    return {
      name,
      keys: row.keys,
      nodes: row.nodes.map((node) => decodeNode(Buffer.from(node, "base64url"))),
      ttlMs: row.ttlMs,
      link: row.link,
      untilReboot: row.untilReboot,
      holds: holds(row),
    };
  } catch (cause) {
    throw new CastoreError("CORRUPT", `pin ${name}: its row cannot be read`, { cause });
  }
}

function holds(row: PinRow): boolean {
  const sameBoot = row.boot === bootId();
  if (row.untilReboot === true && !sameBoot) return false;
  if (row.link !== undefined && !linkStands(row.link.path, row.link.target)) return false;
  if (row.ttlMs === undefined) return true;
  const age = sameBoot ? uptime() * 1000 - row.madeUptimeMs : Date.now() - row.madeMs;
  return age < row.ttlMs;
}

function linkStands(path: string, target: string): boolean {
  try {
    return readlinkSync(path) === target;
  } catch {
    return false;
  }
}
