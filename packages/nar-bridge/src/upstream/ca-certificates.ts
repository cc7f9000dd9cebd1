import { existsSync, readFileSync } from "node:fs";
import { createSecureContext, rootCertificates, type SecureContext } from "node:tls";
import { CastoreError } from "@castore/castore";

/** Where systems keep the certificates they trust; the first that exists counts. */
const SYSTEM_BUNDLES = [
  "/etc/ssl/certs/ca-certificates.crt",
  "/etc/pki/tls/certs/ca-bundle.crt",
  "/etc/ssl/cert.pem",
  "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
];

/** Variables that name a file with certificates to trust besides; the first two are Nix's. */
const BUNDLE_VARIABLES = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];

export type Environment = Readonly<Record<string, string | undefined>>;

/**
 * What https connections trust: Node's certificates, the system's, and those of the files that
 * NIX_SSL_CERT_FILE, SSL_CERT_FILE and NODE_EXTRA_CA_CERTS name. Rejects INVALID where a named file
 * cannot be read or holds no certificate. Takes some 50 ms: once per client, not per connection.
 */
export function createTlsContext(environment: Environment): SecureContext {
  const certificates = new Set(rootCertificates.map((text) => text.trim()));
  for (const path of SYSTEM_BUNDLES) {
    const found = readBundle(path);
    if (found === undefined) continue;
    for (const certificate of found) certificates.add(certificate);
    break;
  }
  for (const variable of BUNDLE_VARIABLES) {
    const path = environment[variable];
    if (path === undefined || path === "") continue;
    const found = readBundle(path) ?? [];
    if (found.length === 0) {
      throw new CastoreError("INVALID", `${variable}=${path}: no certificate can be read there`);
    }
    for (const certificate of found) certificates.add(certificate);
  }
  try {
    return createSecureContext({ ca: [...certificates] });
  } catch (cause) {
    throw new CastoreError("INVALID", "trusted certificates: one of them is malformed", { cause });
  }
}

/** One file of trusted certificates: the environment's, else the system's. */
export function caFileOf(environment: Environment = process.env): string | undefined {
  for (const variable of BUNDLE_VARIABLES) {
    const path = environment[variable];
    if (path !== undefined && path !== "") return path;
  }
  return SYSTEM_BUNDLES.find((path) => existsSync(path));
}

function readBundle(path: string): string[] | undefined {
  try {
    const text = readFileSync(path, "latin1");
    return text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  } catch {
    return undefined;
  }
}
