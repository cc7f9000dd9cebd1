import { BlockList, isIP, isIPv6 } from "node:net";
import { CastoreError } from "@castore/castore";
import type { Environment } from "./ca-certificates.ts";

/** Which proxy a URL is fetched through; undefined for none. */
export type ProxyChoice = (url: URL) => URL | undefined;

/**
 * Reads https_proxy, http_proxy, all_proxy and no_proxy as curl does, and thereby Nix: lower case
 * wins over upper case, a proxy without scheme is http. no_proxy lists `*`, domains (each with its
 * subdomains), addresses and CIDR ranges, with an optional port. Rejects INVALID for a proxy that
 * is not an http or https URL.
 */
export function proxyChoiceFrom(environment: Environment): ProxyChoice {
  const get = (name: string) => environment[name] || environment[name.toUpperCase()] || undefined;
  const all = parseProxy("all_proxy", get("all_proxy"));
  const proxies = {
    "http:": parseProxy("http_proxy", get("http_proxy")) ?? all,
    "https:": parseProxy("https_proxy", get("https_proxy")) ?? all,
  };
  const direct = (get("no_proxy") ?? "")
    .split(/[\s,]+/)
    .filter((item) => item !== "")
    .map(parseException);
  return (url) => {
    if (url.protocol !== "http:" && url.protocol !== "https:") return undefined;
    return direct.some((matches) => matches(url)) ? undefined : proxies[url.protocol];
  };
}

/** The value of Proxy-Authorization, where the proxy's URL carries a user. */
export function proxyAuthorization(proxy: URL): string | undefined {
  if (proxy.username === "" && proxy.password === "") return undefined;
  const user = `${decodeURIComponent(proxy.username)}:${decodeURIComponent(proxy.password)}`;
  return `Basic ${Buffer.from(user).toString("base64")}`;
}

function parseProxy(variable: string, text: string | undefined): URL | undefined {
  if (text === undefined) return undefined;
  const invalid = (cause?: unknown) =>
    new CastoreError("INVALID", `${variable}: not an http or https URL`, { cause });
  let url: URL;
  try {
    url = new URL(/^[a-z0-9+.-]+:\/\//i.test(text) ? text : `http://${text}`);
  } catch (cause) {
    throw invalid(cause);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") throw invalid();
  return url;
}

function parseException(item: string): (url: URL) => boolean {
  if (item === "*") return () => true;
  const range = /^(.+)\/(\d{1,3})$/.exec(item);
  if (range !== null) return rangeMatcher(range[1] ?? "", Number(range[2]));
  const port = isIPv6(item) ? null : /:(\d+)$/.exec(item);
  const name = (port === null ? item : item.slice(0, port.index))
    .replace(/^\[|\]$/g, "")
    .replace(/^\*?\./, "")
    .toLowerCase();
  return (url) => {
    if (port !== null && portOf(url) !== port[1]) return false;
    const host = bareHost(url);
    return host === name || (isIP(host) === 0 && host.endsWith(`.${name}`));
  };
}

function rangeMatcher(network: string, prefix: number): (url: URL) => boolean {
  const family = isIPv6(network) ? "ipv6" : "ipv4";
  if (isIP(network) === 0 || prefix > (family === "ipv6" ? 128 : 32)) return () => false;
  const list = new BlockList();
  list.addSubnet(network, prefix, family);
  return (url) => {
    const host = bareHost(url);
    return isIP(host) !== 0 && list.check(host, isIPv6(host) ? "ipv6" : "ipv4");
  };
}

function bareHost(url: URL): string {
  return url.hostname.replace(/^\[|\]$/g, "").replace(/\.$/, "");
}

function portOf(url: URL): string {
  return url.port || (url.protocol === "https:" ? "443" : "80");
}
