/** What a stand-in server does to an answer, instead of giving it as it is. */
export type CacheFault =
  /** Answers this status, whatever there is. */
  | {
      readonly kind: "status";
      readonly status: number;
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: string;
    }
  /** Takes the request and never answers. */
  | { readonly kind: "hang" }
  /** Closes the connection without an answer. */
  | { readonly kind: "reset" }
  /** Sends true headers and the first `afterBytes` of the body, then closes the connection. */
  | { readonly kind: "cut"; readonly afterBytes: number }
  /** Sends true headers and the first `afterBytes` of the body, then nothing. */
  | { readonly kind: "stall"; readonly afterBytes: number }
  /** Flips the lowest bit of the byte at this position of the object. */
  | { readonly kind: "flip"; readonly atByte: number }
  | { readonly kind: "slow"; readonly bytesPerSecond: number }
  /** Serves as a server that knows no ranges. */
  | { readonly kind: "noRanges" }
  /** Claims ranges, then answers them with a whole or a shifted body. */
  | { readonly kind: "wrongRange"; readonly how: "whole" | "shifted" }
  | { readonly kind: "redirect"; readonly to: string; readonly status?: number }
  /** Names a Content-Length that is off by `delta`. */
  | { readonly kind: "contentLength"; readonly delta: number }
  /** A login page with status 200, as a captive portal gives. */
  | { readonly kind: "html" }
  /** Sends these headers in place of its own; undefined leaves one out. */
  | { readonly kind: "headers"; readonly headers: Readonly<Record<string, string | undefined>> };

/** The body as the fault leaves it; `start` is its position in the object. */
export async function* faultyBody(
  body: AsyncIterable<Uint8Array>,
  fault: CacheFault | undefined,
  start: number,
): AsyncGenerator<Uint8Array> {
  let position = start;
  for await (const piece of body) {
    if (fault?.kind === "flip" && fault.atByte >= position) {
      const index = fault.atByte - position;
      if (index < piece.length) piece[index] = (piece[index] ?? 0) ^ 1;
    }
    position += piece.length;
    if (fault?.kind === "slow") yield* paced(piece, fault.bytesPerSecond);
    else yield piece;
  }
}

const PACE_MS = 20;

async function* paced(piece: Uint8Array, bytesPerSecond: number): AsyncGenerator<Uint8Array> {
  const step = Math.max(1, Math.round((bytesPerSecond * PACE_MS) / 1000));
  for (let at = 0; at < piece.length; at += step) {
    yield piece.subarray(at, at + step);
    await new Promise((resolve) => setTimeout(resolve, PACE_MS));
  }
}
