import { createHash, createHmac } from "node:crypto";

export interface AwsCredentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

/** A request to sign. `path` is percent-encoded already, names and values of `query` are not. */
export interface AwsRequest {
  readonly method: string;
  readonly host: string;
  readonly path: string;
  readonly query: readonly (readonly [string, string])[];
  /** Lower-case names. All are signed. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

export interface AwsSigning {
  readonly credentials: AwsCredentials;
  readonly region: string;
  readonly date: Date;
}

/** The headers of a request to S3, signed by AWS Signature Version 4. `host` is left to add. */
export function signAwsRequest(request: AwsRequest, signing: AwsSigning): Record<string, string> {
  const { credentials, region } = signing;
  const time = signing.date.toISOString().replace(/[-:]|\.\d{3}/g, "");
  const bodyDigest = sha256(request.body);
  const headers: Record<string, string> = {
    ...request.headers,
    "x-amz-content-sha256": bodyDigest,
    "x-amz-date": time,
  };
  const { sessionToken } = credentials;
  if (sessionToken !== undefined) headers["x-amz-security-token"] = sessionToken;
  const signed = Object.entries({ ...headers, host: request.host }).sort(byName);
  const names = signed.map(([name]) => name).join(";");
  const canonical = [
    request.method,
    request.path,
    formatQuery(request.query),
    ...signed.map(([name, value]) => `${name}:${value.trim().replace(/ +/g, " ")}`),
    "",
    names,
    bodyDigest,
  ].join("\n");
  const scope = `${time.slice(0, 8)}/${region}/s3/aws4_request`;
  const toSign = ["AWS4-HMAC-SHA256", time, scope, sha256(canonical)].join("\n");
  let key: Uint8Array = Buffer.from(`AWS4${credentials.secretAccessKey}`, "utf8");
  for (const part of scope.split("/")) key = hmac(key, part);
  const signature = Buffer.from(hmac(key, toSign)).toString("hex");
  headers.authorization =
    `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope},` +
    `SignedHeaders=${names},Signature=${signature}`;
  return headers;
}

/** The query string in the order and encoding that signatures want. */
export function formatQuery(query: readonly (readonly [string, string])[]): string {
  return query
    .map(([name, value]) => [awsEncode(name), awsEncode(value)] as const)
    .sort((a, b) => byName(a, b) || (a[1] < b[1] ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join("&");
}

/** Percent-encodes all but A-Z a-z 0-9 - . _ ~ and, in paths, "/". */
export function awsEncode(text: string, kept: "" | "/" = ""): string {
  const encoded = encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return kept === "/" ? encoded.replaceAll("%2F", "/") : encoded;
}

function byName(a: readonly [string, string], b: readonly [string, string]): number {
  return a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0;
}

function sha256(bytes: Uint8Array | string): string {
  return createHash("sha256").update(bytes).digest("hex");
}

function hmac(key: Uint8Array, text: string): Uint8Array {
  return createHmac("sha256", key).update(text, "utf8").digest();
}
