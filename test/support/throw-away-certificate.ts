import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface ThrowAwayCertificate {
  /** PEM. Self-signed: the same text is the authority to trust. */
  readonly cert: string;
  /** PEM. */
  readonly key: string;
}

/** A certificate for loopback and *.stand-in.test that lives for two days. Needs openssl. */
export function createThrowAwayCertificate(): ThrowAwayCertificate {
  const directory = mkdtempSync(join(tmpdir(), "castore-certificate-"));
  const key = join(directory, "key.pem");
  const cert = join(directory, "cert.pem");
  const names = "IP:127.0.0.1,IP:::1,DNS:localhost,DNS:*.stand-in.test";
  try {
    execFileSync(
      "openssl",
      [
        ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(" "),
        ...["-subj", "/CN=stand-in", "-addext", `subjectAltName=${names}`],
        ...["-keyout", key, "-out", cert],
      ],
      { stdio: "pipe" },
    );
    return { key: readFileSync(key, "utf8"), cert: readFileSync(cert, "utf8") };
  } finally {
    rmSync(directory, { recursive: true });
  }
}
