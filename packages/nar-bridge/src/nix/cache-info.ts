import { CastoreError } from "@castore/castore";
import { parseStoreDir, type StoreDir } from "./store-path.ts";

/** Another protocol that a cache speaks, and where: `castore/1 <url>`. */
export interface Upgrade {
  /** Such as "castore/1". */
  readonly protocol: string;
  /** As sent: relative to the cache, or absolute. Not yet admitted (docs/protocol.md). */
  readonly url: string;
}

/** What a binary cache says of itself in nix-cache-info. */
export interface CacheInfo {
  /** Undefined where the cache does not say, which any store may read. */
  readonly storeDir?: StoreDir | undefined;
  readonly wantMassQuery: boolean;
  /** The lower, the sooner it is asked. */
  readonly priority?: number | undefined;
  /** In the order sent: a client takes the first that it understands. */
  readonly upgrades: readonly Upgrade[];
}

/** Most characters of a nix-cache-info. */
export const CACHE_INFO_LENGTH_MAX = 1 << 16;

/**
 * Parses nix-cache-info as leniently as Nix does: any line end, lines without a colon and unknown
 * keys ignored, the last of several lines counts (but Upgrade). Rejects INVALID for a Priority
 * that is no number (Nix would abort) and a StoreDir that is no normal path, EXHAUSTED over
 * CACHE_INFO_LENGTH_MAX.
 */
export function parseCacheInfo(text: string): CacheInfo {
  if (text.length > CACHE_INFO_LENGTH_MAX) {
    throw new CastoreError(
      "EXHAUSTED",
      `nix-cache-info of ${text.length} characters: the limit is ${CACHE_INFO_LENGTH_MAX}`,
    );
  }
  const values = new Map<string, string>();
  const upgrades: Upgrade[] = [];
  for (const line of text.split(/[\r\n]+/)) {
    const colon = line.indexOf(":");
    if (colon < 0) continue;
    const key = line.slice(0, colon);
    const value = line.slice(colon + 1).trim();
    const upgrade = key === "Upgrade" ? parseUpgrade(value) : undefined;
    if (upgrade !== undefined) upgrades.push(upgrade);
    values.set(key, value);
  }
  const storeDir = values.get("StoreDir");
  const priority = values.get("Priority");
  return {
    storeDir: storeDir === undefined ? undefined : parseStoreDir(storeDir),
    wantMassQuery: values.get("WantMassQuery") === "1",
    priority: priority === undefined ? undefined : parsePriority(priority),
    upgrades,
  };
}

/** Parses `PROTOCOL URL`, the value of an Upgrade line or header; undefined where it is none. */
export function parseUpgrade(value: string): Upgrade | undefined {
  const [, protocol, url] = /^([!-~]+) +([!-~]+)$/.exec(value) ?? [];
  return protocol === undefined || url === undefined ? undefined : { protocol, url };
}

function parsePriority(value: string): number {
  const priority = /^[+-]?\d{1,10}$/.test(value) ? Number(value) : Number.NaN;
  if (Number.isNaN(priority)) {
    throw new CastoreError(
      "INVALID",
      `nix-cache-info, Priority: ${JSON.stringify(value.slice(0, 64))} is no number`,
    );
  }
  return priority;
}

/** The text of `info`, known keys first. */
export function formatCacheInfo(info: CacheInfo): string {
  let text = info.storeDir === undefined ? "" : `StoreDir: ${info.storeDir}\n`;
  text += `WantMassQuery: ${info.wantMassQuery ? 1 : 0}\n`;
  if (info.priority !== undefined) text += `Priority: ${info.priority}\n`;
  for (const { protocol, url } of info.upgrades) text += `Upgrade: ${protocol} ${url}\n`;
  return text;
}
