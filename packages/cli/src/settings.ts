import { homedir } from "node:os";
import { join } from "node:path";
import type { ListenAddress } from "@castore/nar-bridge";
import { InvalidArgumentError, Option } from "commander";

/** Where the store lies unless told: castore in the user's cache directory. */
export function defaultStorePath(env: NodeJS.ProcessEnv = process.env): string {
  return join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "castore");
}

const SIZE_UNITS: Readonly<Record<string, number>> = {
  "": 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** Bytes of a SIZE such as 500M, 10G or 1073741824 (K, M, G, T are powers of 1024). */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?$/i.exec(text);
  const unit = SIZE_UNITS[(match?.[2] ?? "?").toUpperCase()];
  const bytes = Math.floor(Number(match?.[1]) * (unit ?? Number.NaN));
  if (!Number.isSafeInteger(bytes))
    throw new InvalidArgumentError("want a size such as 500M or 10G");
  return bytes;
}

/** Parses HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 picks a free one. */
export function parseListenAddress(text: string): ListenAddress {
  if (text.startsWith("unix:") && text.length > 5) return { path: text.slice(5) };
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || !(port <= 65_535)) {
    throw new InvalidArgumentError("want HOST:PORT, [IPV6]:PORT or unix:PATH");
  }
  return { host, port };
}

/** --listen, at `address` unless told. */
export function listenOption(address: string): Option {
  return new Option("--listen <address>", "HOST:PORT or unix:PATH")
    .argParser(parseListenAddress)
    .default(parseListenAddress(address), address);
}

/** Collects the values of an option that may be given several times. */
export function collect(value: string, previous: readonly string[] | undefined): string[] {
  return [...(previous ?? []), value];
}

const TIME_UNITS_MS: Readonly<Record<string, number>> = {
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Milliseconds of a time such as 90s, 30m, 12h or 7d. */
export function parseDuration(text: string): number {
  const [, count, unit = ""] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const unitMs = TIME_UNITS_MS[unit];
  if (unitMs === undefined) throw new InvalidArgumentError("want a time such as 90s, 30m or 7d");
  return Number(count) * unitMs;
}

/** Seconds, with a fraction if need be: more than 0, at most a day. */
export function parseSeconds(text: string): number {
  const seconds = /^\d{1,5}(\.\d{1,3})?$/.test(text) ? Number(text) : 0;
  if (seconds > 0 && seconds <= 86_400) return seconds;
  throw new InvalidArgumentError("want seconds, more than 0");
}
