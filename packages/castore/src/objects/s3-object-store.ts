import { CastoreError } from "../castore-error.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { credentialsOf, readAwsSettings } from "./aws-profile.ts";
import { type AwsCredentials, awsEncode, formatQuery, signAwsRequest } from "./aws-signature.ts";
import { bodyOf, rangeHeader, sizeOf, unexpected } from "./http-object-store.ts";
import {
  ObjectHttp,
  type ObjectHttpOptions,
  type ObjectRequest,
  type ObjectResponse,
} from "./object-http.ts";
import {
  checkObjectKey,
  type GetObjectOptions,
  OBJECT_BYTES_MAX,
  type ObjectEntry,
  type ObjectStore,
  type PutObjectOptions,
} from "./object-store.ts";

/** A bucket and how to reach it. */
export interface S3Location {
  readonly bucket: string;
  /** Put before every key; ends in "/" unless it is empty. */
  readonly prefix: string;
  readonly endpoint: URL;
  /** Whether the bucket stands in the path, in place of in the host's name. */
  readonly pathStyle: boolean;
  readonly region: string;
  /** Requests go unsigned without. */
  readonly credentials?: AwsCredentials | undefined;
  readonly userAgent?: string | undefined;
}

export interface S3Options extends ObjectHttpOptions {
  /** Most keys in one answer to a listing; the server's limit, commonly 1,000, by default. */
  readonly pageKeys?: number | undefined;
}

/** The parameters of an s3: URL (docs/object-store.md). */
export const S3_OPTION_NAMES: readonly string[] = [
  "aws_access_key_id",
  "aws_secret_access_key",
  "aws_session_token",
  "aws_skip_signature",
  "aws_region",
  "region",
  "aws_endpoint_url",
  "endpoint",
  "scheme",
  "aws_allow_http",
  "aws_profile",
  "profile",
  "path-style",
  "user_agent",
];

/**
 * The bucket that "//bucket/prefix" and the parameters of an s3: URL name (docs/object-store.md),
 * with AWS's environment and files for what they leave open. Rejects INVALID.
 */
export async function resolveS3Location(
  location: string,
  options: ReadonlyMap<string, string>,
  env?: Readonly<Record<string, string | undefined>>,
): Promise<S3Location> {
  for (const name of options.keys()) {
    if (!S3_OPTION_NAMES.includes(name)) throw invalid(location, `parameter ${name} is not known`);
  }
  const match = /^\/\/([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:\/(.*))?$/.exec(location);
  const bucket = match?.[1];
  if (bucket === undefined) throw invalid(location, "want s3://bucket/prefix");
  const parts = (match?.[2] ?? "").split("/").filter((part) => part !== "");
  const prefix = parts.map((part) => `${part}/`).join("");
  if (prefix !== "") checkObjectKey(prefix.slice(0, -1));
  const settings = await readAwsSettings(options.get("aws_profile") ?? options.get("profile"), env);
  const region = options.get("aws_region") ?? options.get("region") ?? settings.region;
  const asked = options.get("aws_endpoint_url") ?? options.get("endpoint") ?? settings.endpoint;
  const scheme = options.get("scheme") ?? "https";
  const endpoint = asked ?? `${scheme}://s3.${region ?? "us-east-1"}.amazonaws.com`;
  const own = asked !== undefined || bucket.includes(".");
  return {
    bucket,
    prefix,
    endpoint: parseEndpoint(
      location,
      /^https?:\/\//.test(endpoint) ? endpoint : `${scheme}://${endpoint}`,
    ),
    pathStyle: flag(location, options, "path-style") ?? own,
    region: region ?? "us-east-1",
    credentials:
      flag(location, options, "aws_skip_signature") === true
        ? undefined
        : (credentialsOf((name) => options.get(name)) ?? settings.credentials),
    userAgent: options.get("user_agent"),
  };
}

function parseEndpoint(location: string, text: string): URL {
  try {
    const url = new URL(text);
    if (/^https?:$/.test(url.protocol) && url.pathname === "/" && url.search === "") return url;
  } catch {
    // Said below.
  }
  throw invalid(location, "endpoint is not http(s)://host:port");
}

function flag(
  location: string,
  options: ReadonlyMap<string, string>,
  name: string,
): boolean | undefined {
  const value = options.get(name);
  if (value === undefined) return undefined;
  if (value === "1" || value === "true") return true;
  if (value === "0" || value === "false") return false;
  throw invalid(location, `${name} is 0 or 1`);
}

function invalid(location: string, fault: string): CastoreError {
  return new CastoreError("INVALID", `s3:${location}: ${fault}`);
}

/** Objects in a bucket of S3 or of a server that speaks its protocol. */
export function openS3ObjectStore(location: S3Location, options: S3Options = {}): ObjectStore {
  return new S3ObjectStore(location, options);
}

class S3ObjectStore implements ObjectStore {
  readonly name: string;
  readonly #location: S3Location;
  readonly #http: ObjectHttp;
  readonly #host: string;
  readonly #base: string;
  readonly #pageKeys: number | undefined;
  /** Some servers do not know If-None-Match on PUT; they are asked once. */
  #conditional = true;

  constructor(location: S3Location, options: S3Options = {}) {
    const { bucket, endpoint, pathStyle, prefix } = location;
    this.name = `s3://${bucket}/${prefix}`;
    this.#location = location;
    this.#pageKeys = options.pageKeys;
    this.#host = pathStyle ? endpoint.host : `${bucket}.${endpoint.host}`;
    this.#base = pathStyle ? `/${bucket}` : "";
    this.#http = new ObjectHttp(this.name, `${endpoint.protocol}//${this.#host}`, options);
  }

  async get(key: string, options: GetObjectOptions = {}): Promise<Buffer | undefined> {
    const { signal, range, bytesMax = OBJECT_BYTES_MAX } = options;
    const headers = range === undefined ? {} : rangeHeader(range);
    const response = await this.#send("GET", key, { headers, bytesMax, signal });
    if (this.#hides(response)) return undefined;
    this.#check(key, response, [200, 206, 404, 416]);
    return bodyOf(this.name, key, response, range);
  }

  async head(key: string, { signal }: CallOptions = {}) {
    const response = await this.#send("HEAD", key, { signal });
    if (this.#hides(response)) return undefined;
    return sizeOf(this.name, key, response);
  }

  async put(key: string, bytes: Uint8Array, options: PutObjectOptions = {}): Promise<boolean> {
    const { signal, ifAbsent = false } = options;
    const conditional = ifAbsent && this.#conditional;
    const headers: Record<string, string> = conditional ? { "if-none-match": "*" } : {};
    const response = await this.#send("PUT", key, { headers, body: bytes, signal });
    if (conditional && response.status === 412) return false;
    if (conditional && response.status === 400 && errorCode(response) === "NotImplemented") {
      this.#conditional = false;
      return await this.put(key, bytes, options);
    }
    this.#check(key, response, [200, 201, 204]);
    return true;
  }

  async *list(prefix: string, { signal }: CallOptions = {}): AsyncGenerator<ObjectEntry> {
    const { prefix: own } = this.#location;
    let token: string | undefined;
    do {
      const query: [string, string][] = [
        ["list-type", "2"],
        ["prefix", own + prefix],
      ];
      if (this.#pageKeys !== undefined) query.push(["max-keys", String(this.#pageKeys)]);
      if (token !== undefined) query.push(["continuation-token", token]);
      const response = await this.#send("GET", undefined, { query, signal });
      this.#check(prefix, response, [200]);
      const xml = response.body.toString("utf8");
      for (const [, contents = ""] of xml.matchAll(/<Contents>(.*?)<\/Contents>/gs)) {
        const key = tag(contents, "Key") ?? "";
        if (key.startsWith(own))
          yield { key: key.slice(own.length), size: Number(tag(contents, "Size")) };
      }
      const truncated = tag(xml, "IsTruncated") === "true";
      const next = tag(xml, "NextContinuationToken");
      if (truncated && (next === undefined || next === token)) {
        throw new CastoreError("UNAVAILABLE", `${this.name}: a listing does not go on`);
      }
      token = truncated ? next : undefined;
    } while (token !== undefined);
  }

  async delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    const response = await this.#send("DELETE", key, { signal });
    this.#check(key, response, [200, 204, 404]);
  }

  close(): Promise<void> {
    return this.#http.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #send(
    method: ObjectRequest["method"],
    key: string | undefined,
    details: {
      readonly query?: readonly (readonly [string, string])[];
      readonly headers?: Readonly<Record<string, string>>;
      readonly body?: Uint8Array;
      readonly bytesMax?: number;
      readonly signal?: AbortSignal | undefined;
    },
  ): Promise<ObjectResponse> {
    if (key !== undefined) checkObjectKey(key);
    const { credentials, region, prefix, userAgent } = this.#location;
    const { query = [], body = new Uint8Array(0), bytesMax = OBJECT_BYTES_MAX } = details;
    const path = `${this.#base}/${key === undefined ? "" : awsEncode(prefix + key, "/")}`;
    const headers = { ...details.headers };
    if (userAgent !== undefined) headers["user-agent"] = userAgent;
    const request = { method, host: this.#host, path, query, headers, body };
    const search = query.length === 0 ? "" : `?${formatQuery(query)}`;
    return this.#http.send(
      {
        method,
        path: path + search,
        headers: () =>
          credentials === undefined
            ? headers
            : signAwsRequest(request, { credentials, region, date: new Date() }),
        body: method === "PUT" ? body : undefined,
        bytesMax,
      },
      { signal: details.signal },
    );
  }

  /** A bucket that may be read but not listed says "forbidden" for what it does not have. */
  #hides(response: ObjectResponse): boolean {
    if (response.status !== 403) return false;
    return this.#location.credentials === undefined || errorCode(response) === "AccessDenied";
  }

  #check(key: string, response: ObjectResponse, good: readonly number[]): void {
    const code = errorCode(response);
    if (code === "NoSuchBucket") {
      throw new CastoreError("UNAVAILABLE", `${this.name}: there is no such bucket`);
    }
    if (good.includes(response.status)) return;
    const region = response.headers.get("x-amz-bucket-region");
    const detail = `${code ?? ""} ${region === undefined ? "" : `(bucket in ${region})`}`;
    throw unexpected(this.name, key, response.status, detail.trim());
  }
}

/** The code in S3's error message; undefined where the answer is none. */
function errorCode({ status, body }: ObjectResponse): string | undefined {
  return status < 300 ? undefined : tag(body.toString("utf8", 0, 4_096), "Code");
}

/** The text of the first element `name`. */
function tag(xml: string, name: string): string | undefined {
  const text = new RegExp(`<${name}>([^<]*)</${name}>`).exec(xml)?.[1];
  return text
    ?.replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&quot;", '"')
    .replaceAll("&apos;", "'")
    .replaceAll("&amp;", "&");
}
