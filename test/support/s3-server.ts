import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { accepts, freePort } from "./ports.ts";

export interface S3Server extends AsyncDisposable {
  readonly url: string;
  readonly bucket: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  /** Where the bucket's objects lie as files: to look at them, and to spoil them. */
  readonly directory: string;
}

const START_MS = 20_000;

/**
 * versitygw on loopback over a fresh directory: a complete S3 server (it checks signatures, knows
 * conditional writes and pages its listings) that one `go install` brings.
 */
export async function startS3Server(): Promise<S3Server> {
  const root = mkdtempSync(join(tmpdir(), "castore-s3-"));
  const bucket = "castore-test";
  const directory = join(root, "data", bucket);
  mkdirSync(directory, { recursive: true });
  mkdirSync(join(root, "meta"));
  const accessKeyId = "castore";
  const secretAccessKey = "not/a+secret";
  const port = await freePort();
  const child = spawn(
    "versitygw",
    [
      ...["--quiet", "--keep-alive", "--port", `127.0.0.1:${port}`],
      ...["posix", "--sidecar", join(root, "meta"), join(root, "data")],
    ],
    {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ROOT_ACCESS_KEY: accessKeyId, ROOT_SECRET_KEY: secretAccessKey },
    },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output = (output + text).slice(-4_000);
    });
  }
  const gone = once(child, "close").finally(() => rmSync(root, { recursive: true, force: true }));
  gone.catch(() => {});
  const limit = Date.now() + START_MS;
  while (!(await accepts(port))) {
    if (child.pid !== undefined && child.exitCode === null && Date.now() < limit) continue;
    child.kill("SIGKILL");
    throw new Error(`versitygw did not start\n${output}`);
  }
  return {
    url: `http://127.0.0.1:${port}`,
    bucket,
    accessKeyId,
    secretAccessKey,
    directory,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await gone;
    },
  };
}
