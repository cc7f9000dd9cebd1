import {
  type CallOptions,
  CastoreError,
  checkObjectKey,
  isCastoreError,
  type ObjectHttpOptions,
  type ObjectStore,
  openS3ObjectStore,
  resolveS3Location,
  S3_OPTION_NAMES,
  type TransferCost,
} from "@castore/castore";
import { parseCacheUrl } from "./admission.ts";
import { requestedRange } from "./file-transport.ts";
import type { HttpClient, HttpRequest } from "./http-client.ts";
import type { HttpResponse } from "./http-response.ts";
import { ORDINARY_LINK } from "./link-meter.ts";

/** A large object is fetched in parts of this size, each tried again by itself. */
const PART_BYTES = 4 << 20;

/**
 * `http`, and below each s3: URL among `cacheUrls` the objects of that bucket, as a static web
 * server would answer for them. Parameters of the URLs that S3 has no use for (Nix gives some to
 * the same URL) mean nothing here. Takes `http` over: closing the result closes both.
 * Rejects INVALID for a URL or a profile that is wrong.
 */
export async function openObjectStoreHttpClient(
  http: HttpClient,
  cacheUrls: readonly string[],
  options: ObjectHttpOptions = {},
): Promise<HttpClient> {
  const buckets = new Map<string, ObjectStore>();
  for (const text of cacheUrls) {
    if (!text.startsWith("s3:")) continue;
    const base = parseCacheUrl(text);
    const parameters = new Map(
      [...new URL(text).searchParams].filter(([name]) => S3_OPTION_NAMES.includes(name)),
    );
    const location = await resolveS3Location(`//${base.host}${base.pathname}`, parameters);
    await buckets.get(base.href)?.close();
    buckets.set(base.href, openS3ObjectStore(location, options));
  }
  const close = async (): Promise<void> => {
    for (const objects of buckets.values()) await objects.close();
    await http.close();
  };
  return {
    async request(url, request) {
      if (url.protocol !== "s3:") return await http.request(url, request);
      const { href } = request.policy.base;
      const objects = buckets.get(href);
      if (objects === undefined || !url.href.startsWith(href)) {
        throw new CastoreError("DENIED", `s3://${url.host}${url.pathname}: not in a named bucket`);
      }
      const key = url.href.slice(href.length);
      return await requestObject(countedObjects(objects, request.cost), url, key, request);
    },
    link: (url) => (url.protocol === "s3:" ? ORDINARY_LINK : http.link(url)),
    close,
    [Symbol.asyncDispose]: close,
  };
}

type ReadObjects = Pick<ObjectStore, "name" | "get" | "head">;

function countedObjects(objects: ObjectStore, cost: TransferCost | undefined): ReadObjects {
  if (cost === undefined) return objects;
  return {
    name: objects.name,
    async get(key, options) {
      cost.requests++;
      const bytes = await objects.get(key, options);
      cost.bytes += bytes?.byteLength ?? 0;
      return bytes;
    },
    async head(key, options) {
      cost.requests++;
      return await objects.head(key, options);
    },
  };
}

async function requestObject(
  objects: ReadObjects,
  url: URL,
  key: string,
  request: HttpRequest,
): Promise<HttpResponse> {
  const { method = "GET", headers = {}, signal } = request;
  signal?.throwIfAborted();
  if (method === "POST") return answer(url, 405, {});
  if (!isObjectKey(key)) return answer(url, 404, { "content-length": "0" });
  // Most objects are small: their first part is all, and tells the size.
  const first =
    method === "GET" && headers.range === undefined
      ? await objects.get(key, { signal, range: { start: 0, end: PART_BYTES } })
      : undefined;
  const isWhole = first !== undefined && first.byteLength < PART_BYTES;
  const found = isWhole ? { size: first.byteLength } : await objects.head(key, { signal });
  if (found === undefined) return answer(url, 404, { "content-length": "0" });
  const { size } = found;
  const shared = { "accept-ranges": "bytes" };
  const range = requestedRange(headers, size, undefined);
  if (range === undefined)
    return answer(url, 416, { ...shared, "content-range": `bytes */${size}` });
  const [start, end] = range;
  const isPart = start > 0 || end < size;
  const bodyHeaders = {
    ...shared,
    "content-length": String(end - start),
    ...(isPart ? { "content-range": `bytes ${start}-${end - 1}/${size}` } : {}),
  };
  const body =
    method === "HEAD" ? undefined : readParts(objects, key, { start, end, first, signal });
  return answer(url, isPart ? 206 : 200, bodyHeaders, body);
}

function isObjectKey(key: string): boolean {
  try {
    checkObjectKey(key);
    return true;
  } catch (error) {
    if (isCastoreError(error, "INVALID")) return false;
    throw error;
  }
}

async function* readParts(
  objects: ReadObjects,
  key: string,
  range: CallOptions & {
    readonly start: number;
    readonly end: number;
    readonly first: Buffer | undefined;
  },
): AsyncGenerator<Uint8Array> {
  const { start, end, first, signal } = range;
  let position = start;
  if (first !== undefined && first.byteLength > 0) {
    yield first;
    position += first.byteLength;
  }
  while (position < end) {
    const part = { start: position, end: Math.min(position + PART_BYTES, end) };
    const bytes = await objects.get(key, { signal, range: part });
    if (bytes?.byteLength !== part.end - part.start) {
      throw new CastoreError("UNAVAILABLE", `${objects.name}: object ${key} changed while read`);
    }
    yield bytes;
    position = part.end;
  }
}

function answer(
  url: URL,
  status: number,
  headers: Readonly<Record<string, string>>,
  body: AsyncIterable<Uint8Array> = (async function* () {})(),
): HttpResponse {
  return { status, url, headers, contentEncoding: undefined, body, discard() {} };
}
