import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accepts, freePort } from "./ports.ts";

export interface NginxOptions {
  /** What `location /` serves. */
  readonly directory: string;
  /** Further directives of the server block. */
  readonly server?: string;
  /** Further directives beside it. */
  readonly http?: string;
}

export interface Nginx extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  /** Every answered request so far, with the bytes of its body. */
  requests(): readonly { readonly line: string; readonly status: number; readonly bytes: number }[];
}

const START_MS = 10_000;

/** The real nginx on loopback, with nothing of the machine's configuration. */
export async function startNginx(options: NginxOptions): Promise<Nginx> {
  const prefix = mkdtempSync(join(tmpdir(), "castore-nginx-"));
  const port = await freePort();
  mkdirSync(join(prefix, "temp"));
  writeFileSync(join(prefix, "nginx.conf"), configuration(prefix, port, options));
  const args = ["-p", prefix, "-c", join(prefix, "nginx.conf"), "-g", "daemon off;"];
  const child = spawn("nginx", args, { stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const gone = once(child, "close").finally(() => rmSync(prefix, { recursive: true, force: true }));
  gone.catch(() => {});
  const limit = Date.now() + START_MS;
  while (!(await accepts(port))) {
    if (child.exitCode === null && Date.now() < limit) continue;
    child.kill("SIGKILL");
    throw new Error(`nginx did not start\n${stderr}`);
  }
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    requests: () => readFileSync(join(prefix, "access.log"), "utf8").split("\n").flatMap(readLine),
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await gone;
    },
  };
}

function configuration(
  prefix: string,
  port: number,
  { directory, server = "", http = "" }: NginxOptions,
): string {
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${prefix}/temp/${name};`)
    .join("\n  ");
  return `
user root;
worker_processes 2;
pid ${prefix}/pid;
error_log stderr;
events { worker_connections 1024; }
http {
  ${temporary}
  log_format seen '$status $body_bytes_sent $request';
  access_log ${prefix}/access.log seen;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  types {
    text/x-nix-narinfo narinfo;
    application/x-nix-nar nar xz zst;
  }
  server {
    listen 127.0.0.1:${port} backlog=1024;
    root ${directory};
    ${server}
  }
  ${http}
}
`;
}

function readLine(text: string) {
  const [status = "", bytes = "", ...line] = text.split(" ");
  return text === ""
    ? []
    : [{ line: line.join(" "), status: Number(status), bytes: Number(bytes) }];
}
