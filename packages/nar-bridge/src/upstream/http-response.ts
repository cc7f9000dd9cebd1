import { CastoreError } from "@castore/castore";

/** An answer to a request, whatever its status. */
export interface HttpResponse {
  readonly status: number;
  /** Where the answer came from, after redirects. */
  readonly url: URL;
  /** By lower-case name; repeated ones are joined by ", ". */
  readonly headers: Readonly<Record<string, string | undefined>>;
  /** The Content-Encoding that `body` was decoded from; undefined where it came as it is. */
  readonly contentEncoding: string | undefined;
  /**
   * The body, decoded; can be iterated once. Reading slowly slows the server down. Ending the
   * iteration early closes the connection. Rejects UNAVAILABLE where the body is cut or stalls,
   * CORRUPT where it does not decode, and with the signal's reason.
   */
  readonly body: AsyncIterable<Uint8Array>;
  /** Frees the connection. Needed where `body` is not iterated; otherwise does nothing. */
  discard(): void;
}

/** The whole body; rejects EXHAUSTED beyond `bytesMax`. Takes care of the connection. */
export async function readBody(response: HttpResponse, bytesMax: number): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of response.body) {
    size += piece.length;
    if (size > bytesMax) {
      const { host, pathname } = response.url;
      throw new CastoreError("EXHAUSTED", `${host}${pathname}: more than ${bytesMax} bytes`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces, size);
}

/** The whole number of bytes that a Content-Length names. */
export function contentLength(response: HttpResponse): number | undefined {
  const text = response.headers["content-length"];
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}
