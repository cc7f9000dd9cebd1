import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { CastoreError, messageOf } from "@castore/castore";
import {
  createHttpClient,
  createUpstream,
  formatDedupTable,
  netrcEntryFor,
  openObjectStoreHttpClient,
  parseNetrc,
  parseStoreHash,
  renderDedupPage,
  type SurveyPair,
  type SurveyProgress,
  surveyDedup,
  TrustedKeys,
} from "@castore/nar-bridge";
import { Command, InvalidArgumentError } from "commander";
import { createByteProgress } from "./progress.ts";
import { collect, parseSize } from "./settings.ts";
import { DEFAULT_UPSTREAM, readIfThere } from "./stack.ts";

const CONCURRENCY_MAX = 64;
const ZSTD_LEVEL_MAX = 19;
const ZSTD_LEVELS_DEFAULT = [3, 9];

interface DedupOptions {
  readonly cache: string;
  readonly pair: readonly SurveyPair[];
  readonly trustedPublicKey?: readonly string[];
  readonly concurrency: number;
  readonly rate?: number;
  readonly zstdLevel?: readonly number[];
  readonly state?: string;
  readonly json?: string;
  readonly html?: string;
}

export function benchCommand(): Command {
  return new Command("bench").description("Measure binary caches.").addCommand(dedupCommand());
}

const HELP = `
A closure is named by a store path or its 32-character hash; ":NEW" is a first download. Each NAR
is downloaded once; --state keeps what was measured, so that the same command goes on after it was
stopped. How to read the result: docs/benchmarks.md.`;

function dedupCommand(): Command {
  const command = new Command("dedup")
    .description("Tell what deduplication would save between closures of a binary cache.")
    .option("--cache <url>", "binary cache: http, https, file or s3", DEFAULT_UPSTREAM)
    .requiredOption("--pair <old:new>", "two closures; repeatable", parsePair)
    .option("--trusted-public-key <key>", "refuse what none of these signed; repeatable", collect)
    .option("--concurrency <n>", "requests at once", parseCount, 4)
    .option("--rate <size>", "most bytes of NARs a second, such as 5M", parseSize)
    .option("--zstd-level <n>", "1 to 19; repeatable (3 and 9 unless told)", parseLevel)
    .option("--state <file>", "keep what was measured here, and go on from there")
    .option("--json <file>", "write the whole report here")
    .option("--html <file>", "write one page with charts here")
    .addHelpText("after", HELP);
  return command.action(() => benchDedup(command.opts<DedupOptions>()));
}

async function benchDedup(options: DedupOptions): Promise<void> {
  const { cache, pair, concurrency, rate, state, trustedPublicKey } = options;
  const abort = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const resume = state === undefined ? "" : "; the same command goes on from here";
    process.once(signal, () => {
      abort.abort(new CastoreError("UNAVAILABLE", `stopped by ${signal}${resume}`));
    });
  }
  const netrc = parseNetrc(await readIfThere(process.env.NETRC ?? "/etc/nix/netrc"));
  await using client = createHttpClient({
    requestsPerHostMax: concurrency,
    transfersPerHostMax: concurrency,
    credentialsFor: ({ hostname }) => {
      const entry = netrcEntryFor(netrc, hostname);
      return entry && { user: entry.login ?? "", password: entry.password ?? "" };
    },
  });
  const http = await openObjectStoreHttpClient(client, [cache]);
  using progress = createByteProgress();
  const report = await surveyDedup({
    upstream: createUpstream({ http, url: cache }),
    pairs: pair,
    zstdLevels: options.zstdLevel ?? ZSTD_LEVELS_DEFAULT,
    concurrency,
    bytesPerSecond: rate,
    trustedKeys: trustedPublicKey && TrustedKeys.parse(trustedPublicKey),
    stateFile: state,
    signal: abort.signal,
    onProgress: (step) => progress.update(titleOf(step), step),
  });
  progress[Symbol.dispose]();
  if (options.json !== undefined) await writeReport(options.json, `${JSON.stringify(report)}\n`);
  if (options.html !== undefined) await writeReport(options.html, renderDedupPage(report));
  process.stdout.write(formatDedupTable(report));
}

function titleOf({ phase, paths, pathsTotal }: SurveyProgress): string {
  return `${phase} ${paths}/${pathsTotal}`;
}

/** Never half a file. */
async function writeReport(file: string, text: string): Promise<void> {
  const temporary = `${file}.tmp-${process.pid}`;
  try {
    await mkdir(dirname(file), { recursive: true });
    await writeFile(temporary, text);
    await rename(temporary, file);
  } catch (cause) {
    throw new CastoreError("INVALID", `${file}: cannot be written: ${String(cause)}`, { cause });
  }
}

function parsePair(text: string, previous: readonly SurveyPair[] = []): SurveyPair[] {
  const [old, next, ...rest] = text.split(":");
  if (old === undefined || next === undefined || rest.length > 0) {
    throw new InvalidArgumentError("want OLD:NEW");
  }
  return [...previous, { old: old === "" ? undefined : hashOf(old), new: hashOf(next) }];
}

/** Of an absolute store path, its last part, or a hash. */
function hashOf(text: string) {
  const name = text.replace(/\/+$/, "").replace(/^.*\//, "");
  try {
    return parseStoreHash(name.replace(/^(.{32})-.*$/, "$1"));
  } catch (error) {
    throw new InvalidArgumentError(messageOf(error));
  }
}

function parseCount(text: string): number {
  const count = Number(text);
  if (!/^\d{1,3}$/.test(text) || count < 1 || count > CONCURRENCY_MAX) {
    throw new InvalidArgumentError(`want 1 to ${CONCURRENCY_MAX}`);
  }
  return count;
}

function parseLevel(text: string, previous: readonly number[] = []): number[] {
  const level = Number(text);
  if (!/^\d{1,2}$/.test(text) || level < 1 || level > ZSTD_LEVEL_MAX) {
    throw new InvalidArgumentError(`want 1 to ${ZSTD_LEVEL_MAX}`);
  }
  return [...new Set([...previous, level])].sort((a, b) => a - b);
}
