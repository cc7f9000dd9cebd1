import {
  CastoreError,
  findIndexFault,
  openBlobService,
  openDirectoryService,
  parseBlobServiceUrl,
  parseDirectoryServiceUrl,
  type RepairReport,
} from "@castore/castore";
import type { Command } from "commander";
import { openStore, storePathOf } from "./local-store.ts";
import { formatBytes, printJson } from "./print.ts";
import { type StoreCommandOptions, storeCommand } from "./store-command.ts";

export function seedCommand(): Command {
  const command = storeCommand(
    "seed",
    "Note the files of a directory, such as /nix/store, as a source of chunks, in place.",
  ).argument("<dir>", "what has not changed since the last time is passed over");
  return command.action(async (path: string) => {
    const options = command.opts<StoreCommandOptions>();
    await using opened = await openStore(options);
    const report = await opened.store.seedTree(path);
    if (options.json === true) {
      printJson({ path, ...report });
      return;
    }
    const { filesIndexed, bytesRead, entriesSkipped, filesForgotten, failures } = report;
    process.stdout.write(
      `${filesIndexed} files noted (${formatBytes(bytesRead)}), ` +
        `${entriesSkipped} entries unchanged, ${filesForgotten} files gone\n`,
    );
    if (failures > 0) process.stderr.write(`castore: ${failures} files could not be read\n`);
  });
}

interface FsckOptions extends StoreCommandOptions {
  readonly repair?: boolean;
  readonly from?: string;
}

export function fsckCommand(): Command {
  const command = storeCommand("fsck", "Verify every blob, directory and row of the local store.")
    .option("--repair", "move away what is damaged, so that it is fetched again")
    .option("--from <url>", "with --repair: where damaged blobs and directories are fetched now")
    .addHelpText(
      "after",
      "\nURLs are those of services, such as grpc+http://HOST:PORT or objectstore+https://HOST/.",
    );
  return command.action(async () => {
    const { repair, from, json, ...options } = command.opts<FsckOptions>();
    // Before it is opened: LMDB trusts its pages, and may end the process.
    checkIndex(storePathOf(options));
    await using opened = await openStore(options);
    const { store } = opened;
    const report = await (from === undefined
      ? store.check({ repair })
      : checkWith(from, (source) => store.check({ repair, source })));
    if (json === true) printJson(report);
    else printReport(report);
    if (report.faultCount > 0 && repair !== true) {
      throw new CastoreError("CORRUPT", `${store.path}: ${report.faultCount} faults`);
    }
  });
}

function checkIndex(path: string): void {
  const fault = findIndexFault(path);
  if (fault === undefined) return;
  const message = `${path}: index page ${fault.page}: ${fault.message}`;
  const advice = "it cannot be repaired: move the store away, and fetch anew";
  throw new CastoreError("CORRUPT", `${message}; ${advice}`);
}

async function checkWith(
  url: string,
  check: (source: {
    blobs: Awaited<ReturnType<typeof openBlobService>>["service"];
    directories: Awaited<ReturnType<typeof openDirectoryService>>["service"];
  }) => Promise<RepairReport>,
): Promise<RepairReport> {
  await using blobs = await openBlobService(parseBlobServiceUrl(url));
  await using directories = await openDirectoryService(parseDirectoryServiceUrl(url));
  return await check({ blobs: blobs.service, directories: directories.service });
}

function printReport(report: RepairReport): void {
  for (const { kind, name, message } of report.faults) {
    process.stdout.write(`${kind} ${name}: ${message}\n`);
  }
  const { blobs, directories, roots, bytesRead, faultCount, missing, refetched } = report;
  process.stdout.write(
    `${blobs} blobs, ${directories} directories and ${roots} roots checked ` +
      `(${formatBytes(bytesRead)}): ${faultCount} faults, ${refetched} fetched anew, ` +
      `${missing} missing\n`,
  );
}
