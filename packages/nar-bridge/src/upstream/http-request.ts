import { CastoreError } from "@castore/castore";
import type { FastifyRequest } from "fastify";
import { decodeContent, parseContentEncoding } from "../compression/content-encoding.ts";

/** The whole body of a request. Rejects EXHAUSTED beyond `bytesMax`. */
export async function readRequest(request: FastifyRequest, bytesMax: number): Promise<Buffer> {
  return await gather(requestBody(request), request, bytesMax);
}

/** The same, its Content-Encoding undone. `bytesMax` is of what comes out. */
export async function readDecodedRequest(
  request: FastifyRequest,
  bytesMax: number,
): Promise<Buffer> {
  const encoding = parseContentEncoding(request.headers["content-encoding"]);
  const body = requestBody(request);
  const decoded = encoding === undefined ? body : decodeContent(body, encoding, request.url);
  return await gather(decoded, request, bytesMax);
}

/** Reads the body to its end and drops it. */
export async function dropRequest(request: FastifyRequest): Promise<void> {
  for await (const _piece of requestBody(request)) {
    // Unread, it would keep the connection from its next request.
  }
}

/** The body as it arrives; rejects EXHAUSTED beyond `bytesMax`. */
export async function* limitedBody(
  request: FastifyRequest,
  bytesMax: number,
): AsyncGenerator<Uint8Array, void, undefined> {
  let size = 0;
  for await (const piece of requestBody(request)) {
    size += piece.byteLength;
    if (size > bytesMax) throw tooLarge(request, bytesMax);
    yield piece;
  }
}

/**
 * The body of a request as it arrives; empty where there is none. A client that waits for it is
 * told to send it now. Ending early leaves the connection as it is, for the answer to get through.
 */
export async function* requestBody(
  request: FastifyRequest,
): AsyncGenerator<Uint8Array, void, undefined> {
  // createHttpServer leaves every body a stream.
  if (request.body === undefined) return;
  if (request.headers.expect !== undefined) request.raw.emit(WANTED);
  yield* request.raw.iterator({ destroyOnReturn: false });
}

/** Emitted by a request whose body is about to be read. */
export const WANTED = "castore-body-wanted";

async function gather(
  body: AsyncIterable<Uint8Array>,
  request: FastifyRequest,
  bytesMax: number,
): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body) {
    size += piece.byteLength;
    if (size > bytesMax) throw tooLarge(request, bytesMax);
    pieces.push(piece);
  }
  return Buffer.concat(pieces, size);
}

function tooLarge({ method, url }: FastifyRequest, bytesMax: number): CastoreError {
  return new CastoreError("EXHAUSTED", `${method} ${url}: a body of over ${bytesMax} bytes`);
}
