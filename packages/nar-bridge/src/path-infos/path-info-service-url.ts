import {
  CastoreError,
  type Opened,
  type OpenServiceOptions,
  openService,
  parseCommonServiceUrl,
  parseDatabaseServiceUrl,
  parseServiceUrlQuery,
  type ServiceMakers,
  type ServiceUrl,
} from "@castore/castore";
import { TrustedKeys } from "../nix/trusted-keys.ts";
import { createCachedPathInfoService } from "./cached-path-info-service.ts";
import { createGrpcPathInfoService } from "./grpc-path-info-service.ts";
import { createObjectStorePathInfoService } from "./object-store-path-info-service.ts";
import { createMemoryPathInfoService, type PathInfoService } from "./path-info-service.ts";

/** A binary cache that snix reads path infos from; castore takes such as an upstream. */
export interface BinaryCacheUrl {
  readonly type: "binary-cache";
  readonly url: URL;
  readonly trustedKeys: TrustedKeys;
}

/** Parses the URL of a path info service. Rejects INVALID. */
export function parsePathInfoServiceUrl(text: string): ServiceUrl | BinaryCacheUrl {
  if (/^nix\+/.test(text)) return parseBinaryCache(text);
  return parsePathInfoStoreUrl(text);
}

function parsePathInfoStoreUrl(text: string): ServiceUrl {
  const url = parseCommonServiceUrl(text, parsePathInfoStoreUrl) ?? parseDatabaseServiceUrl(text);
  if (url === undefined) throw invalid(text, "scheme is not known");
  return url;
}

/** Opens the path infos that a URL names. Rejects INVALID, UNAVAILABLE, UNSUPPORTED. */
export function openPathInfoService(
  url: ServiceUrl,
  options?: OpenServiceOptions,
): Promise<Opened<PathInfoService>> {
  const makers: ServiceMakers<PathInfoService> = {
    what: "path infos",
    memory: createMemoryPathInfoService,
    grpc: (channel) => createGrpcPathInfoService(channel),
    objects: (objects) => createObjectStorePathInfoService(objects),
    cached: createCachedPathInfoService,
  };
  return openService(url, makers, options);
}

/** What snix lets a binary cache's URL say beside keys: it means nothing here. */
const IGNORED = ["force_download_nar", "blob_service", "directory_service"];

function parseBinaryCache(text: string): BinaryCacheUrl {
  const [, location, query] = /^nix\+(https?:\/\/[^/?#][^?#]*)(?:\?([^#]*))?$/.exec(text) ?? [];
  if (location === undefined) throw invalid(text, "want nix+http://host or nix+https://host");
  const keys: string[] = [];
  for (const [name, value] of parseServiceUrlQuery(text, query)) {
    if (/^trusted_public_keys\[\d+\]$/.test(name)) keys.push(value);
    else if (!IGNORED.includes(name)) throw invalid(text, `parameter ${name} is not known`);
  }
  return {
    type: "binary-cache",
    url: parseUrl(text, location),
    trustedKeys: TrustedKeys.parse(keys),
  };
}

function parseUrl(text: string, location: string): URL {
  try {
    return new URL(location);
  } catch (cause) {
    throw new CastoreError("INVALID", invalid(text, "not a URL").message, { cause });
  }
}

function invalid(text: string, fault: string): CastoreError {
  const shown = JSON.stringify(text.replace(/\?.*/s, "?…"));
  return new CastoreError("INVALID", `path info service URL ${shown}: ${fault}`);
}
