import { homedir } from "node:os";
import { join } from "node:path";
import { InvalidArgumentError } from "commander";

/** Where the store lies unless told: $CASTORE_STORE, or castore in the user's cache directory. */
export function defaultStorePath(env: NodeJS.ProcessEnv = process.env): string {
  if (env.CASTORE_STORE) return env.CASTORE_STORE;
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

/** Where a server listens. */
export type ListenAddress =
  | { readonly host: string; readonly port: number }
  | { readonly path: string };

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

/** Collects the values of an option that may be given several times. */
export function collect(value: string, previous: readonly string[] | undefined): string[] {
  return [...(previous ?? []), value];
}
