import { CastoreError } from "../castore-error.ts";
import { ObjectHttp, type ObjectHttpOptions, type ObjectResponse } from "./object-http.ts";
import { checkObjectKey, OBJECT_BYTES_MAX, type ObjectStore } from "./object-store.ts";

/** Objects that a plain HTTP server has below `url`. Only reads. */
export function openHttpObjectStore(url: URL, options: ObjectHttpOptions = {}): ObjectStore {
  const name = `${url.origin}${url.pathname}`;
  const http = new ObjectHttp(name, url.origin, options);
  const base = url.pathname.replace(/\/*$/, "/");
  const headers = (extra: Record<string, string> = {}) => ({ accept: "*/*", ...extra });
  const readOnly = async (): Promise<never> => {
    throw new CastoreError("READ_ONLY", `${name}: a web server's files are only read`);
  };
  const close = () => http.close();
  return {
    name,
    async get(key, { signal, range, bytesMax = OBJECT_BYTES_MAX } = {}) {
      checkObjectKey(key);
      const request = {
        method: "GET" as const,
        path: base + key,
        headers: () => headers(range === undefined ? {} : rangeHeader(range)),
        // A server may answer the whole object to a request for a part.
        bytesMax: range === undefined ? bytesMax : Math.max(bytesMax, OBJECT_BYTES_MAX),
      };
      return bodyOf(name, key, await http.send(request, { signal }), range);
    },
    async head(key, { signal } = {}) {
      checkObjectKey(key);
      const path = base + key;
      const request = { method: "HEAD" as const, path, headers, bytesMax: OBJECT_BYTES_MAX };
      return sizeOf(name, key, await http.send(request, { signal }));
    },
    put: readOnly,
    delete: readOnly,
    // biome-ignore lint/correctness/useYield: it only rejects
    async *list() {
      throw new CastoreError("UNSUPPORTED", `${name}: a web server's files cannot be listed`);
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

/** The header that asks for [start, end). */
export function rangeHeader({ start, end }: { readonly start: number; readonly end: number }) {
  return { range: `bytes=${start}-${Math.max(start, end - 1)}` };
}

/** The object in an answer to GET; undefined where it is absent. */
export function bodyOf(
  name: string,
  key: string,
  { status, body }: ObjectResponse,
  range?: { readonly start: number; readonly end: number },
): Buffer | undefined {
  if (status === 404 || status === 410) return undefined;
  if (range === undefined && status === 200) return body;
  if (range !== undefined) {
    const part = body.subarray(0, Math.max(0, range.end - range.start));
    if (status === 206) return part;
    if (status === 416) return Buffer.alloc(0);
    if (status === 200) return body.subarray(range.start, Math.max(range.start, range.end));
  }
  throw unexpected(name, key, status);
}

/** The size in an answer to HEAD; undefined where the object is absent. */
export function sizeOf(name: string, key: string, { status, headers }: ObjectResponse) {
  if (status === 404 || status === 410) return undefined;
  const size = Number(headers.get("content-length") ?? Number.NaN);
  if (status !== 200 || !Number.isSafeInteger(size)) throw unexpected(name, key, status);
  return { size };
}

/** What an answer means that is neither the object nor its absence. */
export function unexpected(name: string, key: string, status: number, detail = ""): CastoreError {
  const code = status === 401 || status === 403 ? "DENIED" : "UNAVAILABLE";
  return new CastoreError(code, `${name}: object ${key}: HTTP ${status} ${detail}`.trim());
}
