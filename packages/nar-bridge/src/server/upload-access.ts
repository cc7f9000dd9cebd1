import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { isIP } from "node:net";

/** Who may upload: whoever knows the token, or without a token whoever is on this machine. */
export type UploadAccess = { readonly token: string } | { readonly from: "loopback" };

/** Whether `request` may upload, and what to answer if not. */
export function uploadRefusal(
  request: IncomingMessage,
  access: UploadAccess,
): { readonly status: 401 | 403; readonly reason: string } | undefined {
  if ("token" in access) {
    const presented = presentedToken(request.headers.authorization);
    if (presented === undefined) {
      return { status: 401, reason: "uploads need the token, as Bearer or as Basic password" };
    }
    if (!equalInConstantTime(presented, access.token)) {
      return { status: 403, reason: "this is not the upload token" };
    }
    return undefined;
  }
  const { remoteAddress: address, destroyed } = request.socket;
  // A unix socket has no address; a TCP socket loses its own with its connection.
  const isHere = address === undefined ? !destroyed : isLoopback(address);
  if (isHere) return undefined;
  return { status: 403, reason: "without an upload token uploads come from this machine only" };
}

/** The token in an Authorization header: Nix sends what its netrc says, as Basic of any user. */
function presentedToken(authorization: string | undefined): string | undefined {
  const [, scheme, credentials] = /^(\w+) +(\S+)$/.exec(authorization ?? "") ?? [];
  if (credentials === undefined) return undefined;
  if (scheme?.toLowerCase() === "bearer") return credentials;
  if (scheme?.toLowerCase() !== "basic") return undefined;
  const decoded = Buffer.from(credentials, "base64").toString("utf8");
  const colon = decoded.indexOf(":");
  return colon < 0 ? undefined : decoded.slice(colon + 1);
}

function equalInConstantTime(a: string, b: string): boolean {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function isLoopback(address: string): boolean {
  const plain = address.replace(/^::ffff:/, "");
  return isIP(plain) === 4 ? plain.startsWith("127.") : plain === "::1";
}
