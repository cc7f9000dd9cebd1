import { CastoreError, type PathComponent, parsePathComponent } from "@castore/castore";

/** Bytes [start, end) of the file at a path below the root; of another node, nothing. */
export interface Touch {
  readonly path: readonly PathComponent[];
  readonly start: number;
  readonly end: number;
}

/** Most lines of a trace that are read. */
const LINES_MAX = 1_000_000;

/** A line of a trace, without its end: start, end, path, the latter percent-encoded by bytes. */
export function formatTouch({ path, start, end }: Touch): string {
  return `${start} ${end} ${path.map(escapeBytes).join("/")}`;
}

/** Parses a trace. Rejects INVALID, naming the line. */
export function parseTrace(text: string): Touch[] {
  const touches: Touch[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (line === "") continue;
    const [, start = "", end = "", path = ""] = /^(\d{1,15}) (\d{1,15}) ([!-~]+)$/.exec(line) ?? [];
    if (path === "" || Number(start) > Number(end) || index >= LINES_MAX) {
      throw new CastoreError("INVALID", `trace, line ${index + 1}: want START END PATH`);
    }
    const components = path.split("/").map((part) => parsePathComponent(unescapeBytes(part)));
    touches.push({ path: components, start: Number(start), end: Number(end) });
  }
  return touches;
}

function escapeBytes(name: string): string {
  return name.replace(/[^!-$&-.0-~]/g, (byte) => {
    return `%${byte.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
}

function unescapeBytes(text: string): Uint8Array {
  const bytes = text.replace(/%([0-9a-f]{2})/g, (_, hex: string) => {
    return String.fromCharCode(Number.parseInt(hex, 16));
  });
  return Buffer.from(bytes, "latin1");
}
