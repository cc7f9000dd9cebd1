/** A part of a body: bytes [start, end). */
export interface ByteSpan {
  readonly start: number;
  readonly end: number;
}

/**
 * The part of `size` bytes that a Range header asks for: undefined where all is to be sent (no
 * header, none that we understand, or a suffix as long as the body), "unsatisfiable" where nothing
 * is left to send. Of several ranges the first counts.
 */
export function parseRange(
  header: string | undefined,
  size: number,
): ByteSpan | "unsatisfiable" | undefined {
  const [, first, last] = /^bytes=(\d{0,16})-(\d{0,16})(?:,|$)/.exec(header ?? "") ?? [];
  if (first === undefined || last === undefined || (first === "" && last === "")) return undefined;
  if (first === "") {
    const length = Number(last);
    if (length === 0) return "unsatisfiable";
    return length >= size ? undefined : { start: size - length, end: size };
  }
  const start = Number(first);
  const end = last === "" ? size : Math.min(Number(last) + 1, size);
  if (last !== "" && Number(last) < start) return undefined;
  return start >= size ? "unsatisfiable" : { start, end };
}
