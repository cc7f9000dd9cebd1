import { CastoreError } from "../castore-error.ts";

/** Where a gRPC server listens and how to connect. */
export interface GrpcAddress {
  /** The URL without its parameters: how errors name the server. */
  readonly target: string;
  /** The same in the syntax of gRPC's name resolution. */
  readonly dial: string;
  readonly tls?: GrpcTls | undefined;
  /** Whether opening waits for the connection, in place of connecting when first used. */
  readonly waitConnect: boolean;
}

/** Files in PEM; without `caPath` the system's certificate authorities count. */
export interface GrpcTls {
  readonly caPath?: string | undefined;
  readonly clientCertPath?: string | undefined;
  readonly clientKeyPath?: string | undefined;
}

/** A place for objects. `options` are the parameters of the URL, by name. */
export interface ObjectStoreAddress {
  /** "memory", "file", "s3", "http", "https", or one that is known but cannot be opened here. */
  readonly scheme: string;
  /** What follows the scheme, without parameters, "//" included. */
  readonly location: string;
  readonly options: ReadonlyMap<string, string>;
}

/** What a service URL says. */
export type ServiceUrl =
  | { readonly type: "memory" }
  | { readonly type: "grpc"; readonly address: GrpcAddress }
  | { readonly type: "object-store"; readonly address: ObjectStoreAddress }
  | { readonly type: "cache"; readonly near: ServiceUrl; readonly far: ServiceUrl }
  /** snix's own database, or a cloud one: valid, but not opened by castore. */
  | { readonly type: "foreign"; readonly scheme: string };

/** Schemes of object stores that are opened here, and those that snix knows besides. */
const OBJECT_STORES = ["memory", "file", "s3", "http", "https"];
const FOREIGN_OBJECT_STORES = ["s3a", "gs", "az", "azure", "adl", "abfs", "abfss"];

/** Parses the URL of a blob service (docs/grpc.md, Service URLs). Rejects INVALID. */
export function parseBlobServiceUrl(text: string): ServiceUrl {
  const url = parseCommonServiceUrl(text, parseBlobServiceUrl);
  if (url === undefined) throw invalid(text, "scheme is not known");
  return url;
}

/** Parses the URL of a directory service. Rejects INVALID. */
export function parseDirectoryServiceUrl(text: string): ServiceUrl {
  const url =
    parseCommonServiceUrl(text, parseDirectoryServiceUrl) ?? parseDatabaseServiceUrl(text);
  if (url === undefined) throw invalid(text, "scheme is not known");
  return url;
}

/** The URLs that every kind of service has. Undefined where the scheme is another. */
export function parseCommonServiceUrl(
  text: string,
  parsePart: (text: string) => ServiceUrl,
): ServiceUrl | undefined {
  const { scheme, rest } = split(text);
  const [type, inner] = partition(scheme, "+");
  if (type === "memory") return parseMemory(text, rest);
  if (type === "grpc" && inner !== undefined) {
    return { type: "grpc", address: parseGrpc(text, inner, rest) };
  }
  if (type === "objectstore" && inner !== undefined) return parseObjectStore(text, inner, rest);
  if (scheme === "file" || scheme === "s3") return parseObjectStore(text, scheme, rest);
  if (scheme === "cache") return parseCache(text, rest, parsePart);
  return undefined;
}

/** The databases of snix: in memory they are the same to a caller, in files they are its own. */
export function parseDatabaseServiceUrl(text: string): ServiceUrl | undefined {
  const { scheme, rest } = split(text);
  const [location, query] = partition(rest, "?");
  if (scheme === "redb+memory") return parseMemory(text, rest);
  if (scheme === "redb") {
    if (!/^\/(?!\/)./.test(location)) throw invalid(text, "want redb:/absolute/path");
    parseServiceUrlQuery(text, query, ["cache_size", "read_only"]);
    return { type: "foreign", scheme };
  }
  if (scheme === "bigtable") {
    if (!/^\/\/[^/]+$/.test(location)) throw invalid(text, "want bigtable://instance?…");
    const options = parseServiceUrlQuery(text, query, [...BIGTABLE_NEEDS, ...BIGTABLE_MAY]);
    for (const key of BIGTABLE_NEEDS) {
      if (!options.has(key)) throw invalid(text, `parameter ${key} is missing`);
    }
    return { type: "foreign", scheme };
  }
  return undefined;
}

const BIGTABLE_NEEDS = ["project_id", "table_name", "family_name"];
const BIGTABLE_MAY = ["channel_size", "timeout", "is_read_only", "app_profile_id"];

function parseMemory(text: string, rest: string): ServiceUrl {
  if (rest !== "") throw invalid(text, "nothing may follow the colon");
  return { type: "memory" };
}

function parseCache(
  text: string,
  rest: string,
  parsePart: (text: string) => ServiceUrl,
): ServiceUrl {
  const [location, query] = partition(rest, "?");
  const options = parseServiceUrlQuery(text, query, ["near", "far"]);
  const near = options.get("near");
  const far = options.get("far");
  if (location !== "" || near === undefined || far === undefined) {
    throw invalid(text, "want cache:?near=URL&far=URL, each URL percent-encoded");
  }
  if (near.startsWith("cache:") || far.startsWith("cache:")) {
    throw invalid(text, "a cache inside a cache is written in the configuration file");
  }
  return { type: "cache", near: parsePart(near), far: parsePart(far) };
}

const TLS_OPTIONS = {
  caPath: "tls-ca-cert-path",
  clientCertPath: "tls-client-cert-path",
  clientKeyPath: "tls-client-key-path",
} as const;

function parseGrpc(text: string, transport: string, rest: string): GrpcAddress {
  const [location, query] = partition(rest, "?");
  const names = transport === "https" ? Object.values(TLS_OPTIONS) : [];
  const options = parseServiceUrlQuery(text, query, ["wait-connect", ...names]);
  const wait = options.get("wait-connect") ?? "0";
  if (wait !== "0" && wait !== "1") throw invalid(text, "wait-connect is 0 or 1");
  const target = `grpc+${transport}:${location}`;
  const waitConnect = wait === "1";
  if (transport === "unix") {
    if (!/^\/(?!\/)./.test(location)) throw invalid(text, "want grpc+unix:/path");
    return { target, dial: `unix:${location}`, waitConnect };
  }
  if (transport !== "http" && transport !== "https") throw invalid(text, "scheme is not known");
  const dial = `dns:${parseHostPort(text, location, transport === "https" ? 443 : 80)}`;
  if (transport === "http") return { target, dial, waitConnect };
  const tls = {
    caPath: options.get(TLS_OPTIONS.caPath),
    clientCertPath: options.get(TLS_OPTIONS.clientCertPath),
    clientKeyPath: options.get(TLS_OPTIONS.clientKeyPath),
  };
  if ((tls.clientCertPath === undefined) !== (tls.clientKeyPath === undefined)) {
    throw invalid(text, "a client certificate and its key come together");
  }
  return { target, dial, tls, waitConnect };
}

function parseHostPort(text: string, location: string, defaultPort: number): string {
  const match = /^\/\/(\[[0-9a-fA-F:.]+\]|[^/:@[\]?#\s]+)(?::(\d{1,5}))?$/.exec(location);
  const host = match?.[1];
  const port = Number(match?.[2] ?? defaultPort);
  if (host === undefined || port > 65_535) {
    throw invalid(text, "want host or host:port and no path, not even a slash");
  }
  return `${host}:${port}`;
}

function parseObjectStore(text: string, scheme: string, rest: string): ServiceUrl {
  const [location, query] = partition(rest, "?");
  if (!location.startsWith("//")) throw invalid(text, `want ${scheme}://…`);
  if (FOREIGN_OBJECT_STORES.includes(scheme)) return { type: "foreign", scheme };
  if (!OBJECT_STORES.includes(scheme)) throw invalid(text, "scheme is not known");
  const [, authority = "", path = ""] = /^\/\/([^/]*)(.*)$/.exec(location) ?? [];
  const local = scheme === "file" || scheme === "memory";
  if (local !== (authority === "")) {
    throw invalid(text, local ? `want ${scheme}:///path` : `want ${scheme}://name/path`);
  }
  if (scheme === "file" && path === "/") throw invalid(text, "want file:///path");
  return {
    type: "object-store",
    address: { scheme, location, options: parseServiceUrlQuery(text, query) },
  };
}

function split(text: string): { readonly scheme: string; readonly rest: string } {
  const match = /^([a-z][a-z0-9+.-]*):([^#\s]*)$/.exec(text);
  if (match === null) throw invalid(text, "not a URL");
  return { scheme: match[1] ?? "", rest: match[2] ?? "" };
}

function partition(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/**
 * The parameters by name, each at most once; other names than `allowed` are refused. "+" means
 * itself, as keys and secrets in base64 have it.
 */
export function parseServiceUrlQuery(
  text: string,
  query: string | undefined,
  allowed?: readonly string[],
): ReadonlyMap<string, string> {
  const options = new Map<string, string>();
  for (const [name, value] of new URLSearchParams((query ?? "").replaceAll("+", "%2B"))) {
    if (options.has(name)) throw invalid(text, `parameter ${name} stands there twice`);
    if (allowed !== undefined && !allowed.includes(name)) {
      throw invalid(text, `parameter ${name} is not known`);
    }
    options.set(name, value);
  }
  return options;
}

/** The parameters may hold secrets, so the message leaves them out. */
function invalid(text: string, fault: string): CastoreError {
  const shown = JSON.stringify(text.replace(/\?.*/s, "?…"));
  return new CastoreError("INVALID", `service URL ${shown}: ${fault}`);
}
