import { constants } from "node:fs";
import { type FileHandle, open, realpath } from "node:fs/promises";
import { sep } from "node:path";
import { fileURLToPath } from "node:url";
import { type CallOptions, CastoreError, systemCodeOf } from "@castore/castore";
import { displayUrl } from "./admission.ts";
import type { HttpResponse } from "./http-response.ts";

const PIECE_BYTES = 256 * 1024;

/** The last: a name with an encoded slash, which no file has. */
const ABSENT_CODES = ["ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ERR_INVALID_FILE_URL_PATH"];

export interface FileRequest extends CallOptions {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  /** The directory that the file must lie in, after all symlinks are followed. */
  readonly base: URL;
}

/**
 * Answers a request for a file as a static HTTP server would: 200, 206 and 416 for one Range, 404
 * for what is absent or no regular file. Rejects DENIED where a symlink leads out of the directory.
 */
export async function requestFile(url: URL, request: FileRequest): Promise<HttpResponse> {
  request.signal?.throwIfAborted();
  if (request.method !== "GET" && request.method !== "HEAD") return answer(url, 405, {});
  const file = await openBelow(url, request.base);
  if (file === undefined) return answer(url, 404, { "content-length": "0" });
  try {
    const { size, mtimeMs } = await file.stat();
    const etag = `"${size.toString(16)}-${Math.round(mtimeMs * 1000).toString(16)}"`;
    const headers = { "accept-ranges": "bytes", etag };
    const range = requestedRange(request.headers, size, etag);
    if (range === undefined) {
      await file.close();
      return answer(url, 416, { ...headers, "content-range": `bytes */${size}` });
    }
    const [start, end] = range;
    const isPart = start > 0 || end < size;
    const bodyHeaders = {
      ...headers,
      "content-length": String(end - start),
      ...(isPart ? { "content-range": `bytes ${start}-${end - 1}/${size}` } : {}),
    };
    if (request.method === "HEAD") {
      await file.close();
      return answer(url, isPart ? 206 : 200, bodyHeaders);
    }
    const body = readRange(file, { url, start, end, signal: request.signal });
    const discard = () => void file.close().catch(() => {});
    return answer(url, isPart ? 206 : 200, bodyHeaders, { body, discard });
  } catch (error) {
    await file.close().catch(() => {});
    throw error;
  }
}

async function openBelow(url: URL, base: URL): Promise<FileHandle | undefined> {
  try {
    const directory = await realpath(fileURLToPath(base));
    const path = await realpath(fileURLToPath(url));
    if (path === directory) return undefined;
    if (!path.startsWith(directory.endsWith(sep) ? directory : directory + sep)) {
      throw new CastoreError("DENIED", `${displayUrl(url)}: leads out of ${directory}`);
    }
    // Not to wait for the writer of a fifo.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    const file = await open(path, flags);
    if ((await file.stat()).isFile()) return file;
    await file.close();
    return undefined;
  } catch (cause) {
    if (cause instanceof CastoreError) throw cause;
    const code = systemCodeOf(cause);
    if (typeof code === "string" && ABSENT_CODES.includes(code)) return undefined;
    if (code === "EACCES") {
      throw new CastoreError("DENIED", `${displayUrl(url)}: permission denied`, { cause });
    }
    throw new CastoreError("UNAVAILABLE", `${displayUrl(url)}: ${code ?? "cannot be read"}`, {
      cause,
    });
  }
}

/** [start, end) of an object; undefined where the range asked for lies outside. */
export function requestedRange(
  headers: Readonly<Record<string, string>>,
  size: number,
  etag: string | undefined,
): [number, number] | undefined {
  const ifRange = headers["if-range"];
  const match = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(headers.range ?? "");
  if (match === null || (ifRange !== undefined && ifRange !== etag)) return [0, size];
  const [, first = "", last = ""] = match;
  if (first === "") {
    const length = Math.min(Number(last), size);
    return last === "" ? [0, size] : length === 0 ? undefined : [size - length, size];
  }
  const start = Number(first);
  const end = last === "" ? size : Math.min(Number(last) + 1, size);
  return start < end ? [start, end] : undefined;
}

async function* readRange(
  file: FileHandle,
  range: { url: URL; start: number; end: number; signal: AbortSignal | undefined },
): AsyncGenerator<Uint8Array> {
  try {
    let position = range.start;
    while (position < range.end) {
      range.signal?.throwIfAborted();
      const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, range.end - position));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, position);
      if (bytesRead === 0) {
        throw new CastoreError("UNAVAILABLE", `${displayUrl(range.url)}: ends at ${position}`);
      }
      position += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

function answer(
  url: URL,
  status: number,
  headers: Readonly<Record<string, string>>,
  content?: { body: AsyncIterable<Uint8Array>; discard: () => void },
): HttpResponse {
  const body = content?.body ?? (async function* () {})();
  const discard = content?.discard ?? (() => {});
  return { status, url, headers, contentEncoding: undefined, body, discard };
}
