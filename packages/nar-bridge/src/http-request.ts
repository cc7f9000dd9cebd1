import { CastoreError } from "@castore/castore";
import type { FastifyRequest } from "fastify";

/** The whole body of a request. Rejects EXHAUSTED beyond `bytesMax`. */
export async function readRequest(request: FastifyRequest, bytesMax: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of requestBody(request)) {
    size += piece.byteLength;
    if (size > bytesMax) {
      const { method, url } = request;
      throw new CastoreError("EXHAUSTED", `${method} ${url}: a body of over ${bytesMax} bytes`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces, size);
}

/** The body of a request as it arrives; empty where there is none. */
export function requestBody(request: FastifyRequest): AsyncIterable<Uint8Array> {
  // createHttpServer leaves every body a stream.
  return request.body === undefined ? noBytes() : (request.body as AsyncIterable<Uint8Array>);
}

async function* noBytes(): AsyncGenerator<Uint8Array> {}
