import { CastoreError } from "@castore/castore";
import {
  formatStorePath,
  leavesFirst,
  type PathCost,
  PathCosts,
  type PathInfo,
  parseAbsoluteStorePath,
  type StoreHash,
  storePathHash,
} from "@castore/nar-bridge";
import type { Command } from "commander";
import { type OpenStore, openStore } from "./local-store.ts";
import { formatBytes, printJson } from "./print.ts";
import { type StoreCommandOptions, storeCommand } from "./store-command.ts";

interface ExplainOptions extends StoreCommandOptions {
  readonly closure?: boolean;
}

export function explainCommand(): Command {
  const command = storeCommand("explain", "Show what store paths cost to fetch, and why.")
    .option("--closure", "all that the paths refer to as well")
    .argument("<storepath...>", "absolute store paths that are in the local store")
    .addHelpText("after", EXPLAIN_HELP);
  return command.action(async (paths: readonly string[]) => {
    const options = command.opts<ExplainOptions>();
    await using opened = await openStore(options);
    const costs = new PathCosts(opened.store);
    const sum = { paths: 0, narBytes: 0, bytes: 0, requests: 0 };
    for (const pathInfo of await wantedPaths(opened, paths, options.closure === true)) {
      const path = formatStorePath(pathInfo.storePath, pathInfo.storeDir);
      const cost = costs.get(storePathHash(pathInfo.storePath));
      sum.paths++;
      sum.narBytes += pathInfo.narSize;
      sum.bytes += (cost?.metadata.bytes ?? 0) + (cost?.contents.bytes ?? 0);
      sum.requests += (cost?.metadata.requests ?? 0) + (cost?.contents.requests ?? 0);
      if (options.json === true) printJson({ path, narSize: pathInfo.narSize, cost });
      else process.stdout.write(`${path}\n${cost === undefined ? NOT_NOTED : textOf(cost)}`);
    }
    if (options.json === true || options.closure !== true) return;
    const taken = `${formatBytes(sum.bytes)} in ${counted(sum.requests, "request")}`;
    process.stdout.write(
      `${counted(sum.paths, "path")}, ${formatBytes(sum.narBytes)} of NARs: ${taken}\n`,
    );
  });
}

const EXPLAIN_HELP = `
For each path: the ways that were priced and which was taken, what its metadata and its contents
took, and where its chunks were. A request that served several paths counts for the first of them;
narinfos and what caches say of themselves do not count. It is noted when a bridge, a mount or
"castore substitute" stores a path, and kept as long as the path is.`;

const NOT_NOTED = "  was not fetched by a bridge, a mount or castore substitute\n";

/** The path infos of `paths`, with `closure` of all they refer to, what is referred to first. */
async function wantedPaths(
  { pathInfos }: OpenStore,
  paths: readonly string[],
  closure: boolean,
): Promise<readonly PathInfo[]> {
  const roots = paths.map((path) => storePathHash(parseAbsoluteStorePath(path)));
  const found = new Map<StoreHash, PathInfo>();
  const open = new Set(roots);
  for (const storeHash of open) {
    const pathInfo = await pathInfos.get(storeHash);
    if (pathInfo === undefined) {
      const name = paths[roots.indexOf(storeHash)] ?? storeHash;
      throw new CastoreError("INCOMPLETE", `${name}: is not in the store`);
    }
    found.set(storeHash, pathInfo);
    if (closure) for (const path of pathInfo.references) open.add(storePathHash(path));
  }
  const references = new Map(
    [...found].map(([hash, pathInfo]) => [hash, pathInfo.references.map(storePathHash)]),
  );
  const order = closure ? leavesFirst(roots, references) : roots;
  return order.flatMap((storeHash) => found.get(storeHash) ?? []);
}

function textOf(cost: PathCost): string {
  const { narSize, fileSize, way, why, prices, metadata, contents, chunks } = cost;
  const served = fileSize === undefined ? "" : `, ${formatBytes(fileSize)} as served`;
  const when = new Date(cost.at).toISOString().replace("T", " ").slice(0, 19);
  const lines = [
    `NAR of ${formatBytes(narSize)}${served} by ${cost.upstream}`,
    `stored ${when} UTC, ${WAYS[way]}: ${why}`,
  ];
  for (const { kind, server, bytes, requests, ms, verdict } of prices) {
    const asked = `${formatBytes(bytes)} in ${counted(requests, "request")}`;
    const seconds = `${(ms / 1000).toFixed(3)} s`;
    lines.push(`${verdict.padEnd(8)} ${kind.padEnd(6)} ${asked}, ${seconds}, ${server}`);
  }
  const link = prices.find(({ verdict }) => verdict === "taken");
  if (link !== undefined) {
    const rate = `${formatBytes(link.bytesPerSecond)}/s`;
    lines.push(`priced at ${rate} and round trips of ${link.roundTripMs.toFixed(1)} ms`);
  }
  for (const failure of cost.failures) lines.push(`failed   ${failure}`);
  const part = ({ bytes, requests }: PathCost["contents"]) =>
    `${formatBytes(bytes)} in ${counted(requests, "request")}`;
  lines.push(`took ${part(contents)}, and ${part(metadata)} for metadata`);
  if (way === "castore" || way === "grpc") {
    const { local, remote } = chunks;
    const here = `${local.count} here (${formatBytes(local.bytes)})`;
    lines.push(`chunks: ${here}, ${remote.count} fetched (${formatBytes(remote.bytes)})`);
  }
  return lines.map((line) => `  ${line}\n`).join("");
}

const WAYS: Readonly<Record<PathCost["way"], string>> = {
  local: "without a download",
  castore: "from chunks",
  grpc: "from chunks over gRPC",
  plain: "from the plain NAR",
};

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
