import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import type { NixWorld } from "../test/support/nix-world.ts";
import { repositoryRoot } from "../test/support/repository-root.ts";
import { buildProfile } from "./profile.ts";

/** bench/corpus.json: what is pinned, by npm's own hashes. */
interface PinnedCorpus {
  /** Smallest first. */
  readonly patchReleases: readonly {
    readonly name: string;
    readonly old: PinnedPackage;
    readonly new: PinnedPackage;
  }[];
  /** Names of patch releases of which a closure is made that is built twice. */
  readonly rebuilt: readonly string[];
  readonly smallFiles: { readonly count: number; readonly from: string; readonly file: string };
}

interface PinnedPackage {
  readonly version: string;
  readonly integrity: string;
}

/** What a client has, and what it asks for: store paths. */
export interface Update {
  readonly name: string;
  readonly old: readonly string[];
  readonly new: readonly string[];
}

/**
 * Makes the corpus into paths of the world's store; downloads packages that `directory` lacks.
 * With a `scale` below 1, only so many of the packages, smallest first.
 */
export async function buildUpdates(
  world: NixWorld,
  directory: string,
  scale: number,
): Promise<Update[]> {
  const file = join(repositoryRoot(), "bench/corpus.json");
  const whole: PinnedCorpus = JSON.parse(readFileSync(file, "utf8"));
  const kept = Math.ceil(whole.patchReleases.length * scale);
  const corpus = { ...whole, patchReleases: whole.patchReleases.slice(0, kept) };
  const [old, now]: [Map<string, string>, Map<string, string>] = [new Map(), new Map()];
  for (const { name, ...releases } of corpus.patchReleases) {
    old.set(name, await addPackage(world, directory, name, releases.old));
    now.set(name, await addPackage(world, directory, name, releases.new));
  }
  const rebuild = async (salt: string) => {
    const sources = corpus.rebuilt.flatMap((name) => now.get(name) ?? []).join(" ");
    const expression = join(repositoryRoot(), "bench/rebuild.nix");
    const args = ["--no-out-link", expression, "--argstr", "salt", salt];
    const store = ["--store", world.store.uri, "--argstr", "sources", sources];
    return [(await world.run("nix-build", [...args, ...store])).stdout.trim()];
  };
  // Nobody asks for packages that have nothing to do with each other at once.
  const oldProfile = await buildProfile(world, "profile-1", [...old.values()]);
  const profile = await buildProfile(world, "profile-2", [...now.values()]);
  return [
    { name: `${kept} patch releases`, old: [oldProfile], new: [profile] },
    { name: "hash-only rebuild", old: await rebuild("1"), new: await rebuild("2") },
    { name: "first download", old: [], new: [profile] },
    {
      name: `${corpus.smallFiles.count} small files`,
      old: [],
      new: [await addSmallFiles(world, directory, corpus)],
    },
  ];
}

async function addPackage(
  world: NixWorld,
  directory: string,
  name: string,
  pinned: PinnedPackage,
): Promise<string> {
  const unpacked = await unpackedPackage(directory, name, pinned);
  return await addPath(world, `${plainName(name)}-${pinned.version}`, unpacked);
}

async function addPath(world: NixWorld, name: string, directory: string): Promise<string> {
  const args = ["store", "add-path", "--store", world.store.uri, "--name", name, directory];
  return (await world.run("nix", args)).stdout.trim();
}

/** "@next/swc" is "next-swc": as npm names its archives. */
function plainName(name: string): string {
  return name.replace("@", "").replaceAll("/", "-");
}

/** The package's files. Rejects where npm has other bytes under that version. */
async function unpackedPackage(
  directory: string,
  name: string,
  { version, integrity }: PinnedPackage,
): Promise<string> {
  mkdirSync(directory, { recursive: true });
  const archive = join(directory, `${plainName(name)}-${version}.tgz`);
  const run = promisify(execFile);
  if (!existsSync(archive)) {
    await run("npm", ["pack", `${name}@${version}`, "--pack-destination", directory]);
  }
  const got = `sha512-${createHash("sha512").update(readFileSync(archive)).digest("base64")}`;
  if (got !== integrity) throw new Error(`${archive}: is ${got}, want ${integrity}`);
  const unpacked = archive.replace(/\.tgz$/, "");
  if (!existsSync(unpacked)) {
    mkdirSync(`${unpacked}.part`, { recursive: true });
    await run("tar", ["-xzf", archive, "-C", `${unpacked}.part`, "--strip-components=1"]);
    await run("mv", [`${unpacked}.part`, unpacked]);
  }
  return unpacked;
}

/** A large source file, cut into as many small ones, no two of which overlap. */
async function addSmallFiles(
  world: NixWorld,
  directory: string,
  { patchReleases, smallFiles: { count, from, file } }: PinnedCorpus,
): Promise<string> {
  const pinned = patchReleases.find(({ name }) => name === from);
  if (pinned === undefined) throw new Error(`corpus: no ${from}`);
  const unpacked = await unpackedPackage(directory, from, pinned.new);
  const text = readFileSync(join(unpacked, file));
  const tree = join(directory, `${plainName(from)}-in-${count}-files`);
  for (let i = 0; i < count; i++) {
    const folder = join(tree, `${Math.floor(i / 50)}`);
    if (i % 50 === 0) mkdirSync(folder, { recursive: true });
    const [start, end] = [i, i + 1].map((at) => Math.floor((at * text.byteLength) / count));
    writeFileSync(join(folder, `${i}.js`), text.subarray(start, end));
  }
  return await addPath(world, "small-files", tree);
}
