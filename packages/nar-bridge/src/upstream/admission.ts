import { fileURLToPath } from "node:url";
import { CastoreError } from "@castore/castore";

/** Redirects followed for one request. */
export const REDIRECTS_MAX = 5;

/** Characters in a URL that a server names. */
export const URL_CHARS_MAX = 8192;

/** What a server named the URL for. */
export type UrlPurpose = "upgrade" | "grpc" | "nar" | "redirect";

/** On whose behalf a URL is fetched. */
export interface UrlPolicy {
  /** The cache that the user named: an http, https or file URL whose path ends in a slash. */
  readonly base: URL;
  /** Origins besides the cache's own that its Upgrade and gRPC URLs may name; the user's choice. */
  readonly upgradeOrigins?: readonly string[] | undefined;
}

/**
 * A cache's URL from the user's text: http, https, file or s3, with a slash at the end of its path
 * and without query and fragment. Rejects INVALID.
 */
export function parseCacheUrl(text: string): URL {
  let url: URL;
  try {
    url = new URL(text);
  } catch (cause) {
    throw new CastoreError("INVALID", `cache URL ${JSON.stringify(text)}: not a URL`, { cause });
  }
  if (!["http:", "https:", "file:", "s3:"].includes(url.protocol)) {
    const fault = "not http, https, file or s3";
    throw new CastoreError("INVALID", `cache URL ${JSON.stringify(text)}: ${fault}`);
  }
  if (url.username !== "" || url.password !== "") {
    const advice = "put user and password into a netrc file";
    throw new CastoreError("INVALID", `cache URL of ${url.host}: carries a user; ${advice}`);
  }
  url.search = "";
  url.hash = "";
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

/**
 * Decides whether a URL that a server named may be fetched, and returns it resolved against the
 * cache's base (a redirect: against `relativeTo`). http and https only; the URLs of a file or s3
 * cache stay in its directory; no user or password; Upgrade and gRPC URLs stay on the cache's
 * origin or on one of `policy.upgradeOrigins`. Throws INVALID for what is no URL and DENIED for
 * what is not allowed. Where the connection leads is checked when it is made: see connector.ts.
 */
export function admitUrl(
  text: string,
  purpose: UrlPurpose,
  policy: UrlPolicy,
  relativeTo: URL = policy.base,
): URL {
  const url = resolve(text, purpose, relativeTo);
  const refuse = (reason: string) =>
    new CastoreError("DENIED", `${purpose} URL ${JSON.stringify(text.slice(0, 200))}: ${reason}`);
  if (url.username !== "" || url.password !== "") throw refuse("carries a user");
  const staysHome = purpose === "upgrade" || purpose === "grpc";
  if (staysHome && isListed(url, policy.upgradeOrigins)) return url;
  if (policy.base.protocol === "file:" || policy.base.protocol === "s3:") {
    if (!isBelow(url, policy.base)) throw refuse(`leaves ${displayUrl(policy.base)}`);
    return url;
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") throw refuse("not http or https");
  if (staysHome && url.origin !== policy.base.origin) {
    throw refuse(`leaves ${policy.base.origin}, and ${url.origin} is not among --upgrade-origins`);
  }
  return url;
}

/** Whether both URLs have one scheme, host and port; only http and https URLs have an origin. */
export function isSameOrigin(a: URL, b: URL): boolean {
  return a.origin !== "null" && a.origin === b.origin;
}

/** The URL for messages: a query may carry a signature that grants access. */
export function displayUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`;
}

function resolve(text: string, purpose: UrlPurpose, relativeTo: URL): URL {
  const invalid = (reason: string, cause?: unknown) =>
    new CastoreError("INVALID", `${purpose} URL ${JSON.stringify(text.slice(0, 200))}: ${reason}`, {
      cause,
    });
  if (text.length === 0 || text.length > URL_CHARS_MAX) {
    throw invalid(`${text.length} characters, want 1 to ${URL_CHARS_MAX}`);
  }
  // The URL parser drops tabs and newlines and turns a backslash into a slash; nobody means that.
  if (/[^\x21-\x7e]|\\/.test(text)) throw invalid("a space, control character or backslash");
  try {
    const url = new URL(text, relativeTo);
    url.hash = "";
    return url;
  } catch (cause) {
    throw invalid("not a URL", cause);
  }
}

function isListed(url: URL, origins: readonly string[] | undefined): boolean {
  if (url.protocol !== "http:" && url.protocol !== "https:") return false;
  return (
    origins?.some((text) => URL.canParse(text) && new URL(text).origin === url.origin) ?? false
  );
}

function isBelow(url: URL, base: URL): boolean {
  if (url.protocol !== base.protocol || url.host !== base.host) return false;
  if (!url.pathname.startsWith(base.pathname)) return false;
  if (url.protocol === "s3:") return url.search === "";
  try {
    const path = fileURLToPath(url);
    return !path.includes("\0") && path.startsWith(fileURLToPath(base));
  } catch {
    return false; // an encoded slash: no file has such a name
  }
}
