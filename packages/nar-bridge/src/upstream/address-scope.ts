import { isIPv4, isIPv6 } from "node:net";

/** How far from this machine an address lies, nearest first. */
export const ADDRESS_SCOPES = ["loopback", "link-local", "private", "public"] as const;

export type AddressScope = (typeof ADDRESS_SCOPES)[number];

/** Whether `scope` is `limit` or farther away from this machine. */
export function isWithinReach(scope: AddressScope, limit: AddressScope): boolean {
  return ADDRESS_SCOPES.indexOf(scope) >= ADDRESS_SCOPES.indexOf(limit);
}

/**
 * The scope of an IPv4 or IPv6 address in text form. IPv6 addresses that carry an IPv4 address
 * (mapped, compatible, NAT64, 6to4) have the scope of that one. Multicast, broadcast and reserved
 * addresses count as link-local, documentation and benchmark ranges as private: no public server is
 * there. Throws RangeError for anything that is not an address.
 */
export function addressScope(address: string): AddressScope {
  const bare = address.replace(/^\[|\]$/g, "").replace(/%.*$/, "");
  if (isIPv4(bare)) return scopeOfIpv4(bare.split(".").map(Number));
  if (isIPv6(bare)) return scopeOfIpv6(ipv6Groups(bare));
  throw new RangeError(`not an IP address: ${JSON.stringify(address)}`);
}

/** The scope of a host name that needs no lookup: an address or a name of this machine. */
export function literalScope(hostname: string): AddressScope | undefined {
  const bare = hostname.replace(/^\[|\]$/g, "");
  if (isIPv4(bare) || isIPv6(bare)) return addressScope(bare);
  return /(^|\.)localhost\.?$/i.test(bare) ? "loopback" : undefined;
}

function scopeOfIpv4(octets: readonly number[]): AddressScope {
  const [a = 0, b = 0, c = 0] = octets;
  if (a === 0 || a === 127) return "loopback";
  if ((a === 169 && b === 254) || a >= 224) return "link-local";
  const isPrivate =
    a === 10 ||
    (a === 172 && b >= 16 && b <= 31) ||
    (a === 192 && b === 168) ||
    (a === 100 && b >= 64 && b <= 127) ||
    (a === 198 && (b === 18 || b === 19)) ||
    (a === 192 && b === 0 && (c === 0 || c === 2)) ||
    (a === 198 && b === 51 && c === 100) ||
    (a === 203 && b === 0 && c === 113);
  return isPrivate ? "private" : "public";
}

function scopeOfIpv6(groups: readonly number[]): AddressScope {
  const [g0 = 0, g1 = 0, g2 = 0, g3 = 0, g4 = 0, g5 = 0, g6 = 0, g7 = 0] = groups;
  const embedded = (high: number, low: number) =>
    scopeOfIpv4([high >> 8, high & 0xff, low >> 8, low & 0xff]);
  const high64IsZero = g0 === 0 && g1 === 0 && g2 === 0 && g3 === 0;
  if (high64IsZero && g4 === 0 && g5 === 0 && g6 === 0 && g7 <= 1) return "loopback";
  if (high64IsZero && (g4 === 0 || g4 === 0xffff) && (g5 === 0 || g5 === 0xffff)) {
    return embedded(g6, g7);
  }
  if (g0 === 0x64 && g1 === 0xff9b) return g2 === 0 ? embedded(g6, g7) : "private";
  if (g0 === 0x2002) return embedded(g1, g2);
  if ((g0 & 0xffc0) === 0xfe80 || (g0 & 0xff00) === 0xff00) return "link-local";
  if ((g0 & 0xfe00) === 0xfc00 || (g0 & 0xffc0) === 0xfec0) return "private";
  if (g0 === 0x2001 && (g1 === 0 || g1 === 0xdb8)) return "private";
  return (g0 & 0xe000) === 0x2000 ? "public" : "private";
}

function ipv6Groups(address: string): number[] {
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(address);
  let text = address;
  if (dotted !== null) {
    const [, head = "", a, b, c, d] = dotted;
    const hex = (high: unknown, low: unknown) => (Number(high) * 256 + Number(low)).toString(16);
    text = `${head}${hex(a, b)}:${hex(c, d)}`;
  }
  const [left = "", right] = text.split("::");
  const parse = (part: string) =>
    part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16));
  const head = parse(left);
  if (right === undefined) return head;
  const tail = parse(right);
  return [...head, ...new Array<number>(8 - head.length - tail.length).fill(0), ...tail];
}
