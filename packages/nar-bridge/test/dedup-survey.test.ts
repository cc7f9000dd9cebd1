import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { type ChunkSizes, chunksOf, digestOf, zstdCompress } from "@castore/castore";
import { describe, expect, it } from "vitest";
import {
  cacheObjects,
  encodeStandInNar,
  noise,
  prose,
  type StandInPath,
} from "../../../test/support/stand-in-closure.ts";
import { DEDUP_CUTS, type DedupCut } from "../src/dedup/dedup-cut.ts";
import type { SurveyProgress } from "../src/dedup/dedup-survey.ts";
import type { StorePath } from "../src/nix/store-path.ts";
import { LEVELS, standIn, startSurvey, temporaryFile } from "./dedup-fixture.ts";

const knownParts = new Map<string, Promise<Map<string, Buffer>>>();

function partsOf(path: StandInPath, cut: DedupCut): Promise<Map<string, Buffer>> {
  const key = `${path.storePath} ${cut.id}`;
  const parts = knownParts.get(key) ?? cutPath(path, cut);
  knownParts.set(key, parts);
  return parts;
}

/** What a path consists of when it is cut, the slow and obvious way. */
async function cutPath({ files, references, storePath }: StandInPath, cut: DedupCut) {
  const parts = new Map<string, Buffer>();
  for (const contents of Object.values(files)) {
    let text = contents.toString("latin1");
    for (const path of new Set([storePath, ...references])) {
      if (cut.isNormal) text = text.replaceAll(path.slice(0, 32), "e".repeat(32));
    }
    for (const part of await cutFile(Buffer.from(text, "latin1"), cut.sizes)) {
      parts.set(digestOf(part), part);
    }
  }
  return parts;
}

async function cutFile(bytes: Buffer, sizes: ChunkSizes | undefined): Promise<Buffer[]> {
  if (bytes.length === 0) return [];
  if (sizes === undefined) return [bytes];
  const chunks: Buffer[] = [];
  for await (const chunk of chunksOf([bytes], { sizes })) chunks.push(Buffer.from(chunk));
  return chunks;
}

const packedSizes = new Map<string, number>();

/** zstd, in frames of 8 MiB. */
function packedSize(bytes: Buffer, level: number): number {
  const key = `${digestOf(bytes)} ${level}`;
  const known = packedSizes.get(key);
  if (known !== undefined) return known;
  let size = 0;
  for (let at = 0; at < bytes.length; at += 8 << 20) {
    size += zstdCompress(bytes.subarray(at, at + (8 << 20)), level).byteLength;
  }
  packedSizes.set(key, size);
  return size;
}

/** What is in the paths of `next` and not in those of `old`. */
async function missing(old: readonly StandInPath[], next: readonly StandInPath[], cut: DedupCut) {
  const known = new Set<string>();
  for (const path of old) for (const key of (await partsOf(path, cut)).keys()) known.add(key);
  const parts: Buffer[] = [];
  for (const path of next) {
    for (const [key, part] of await partsOf(path, cut)) if (!known.has(key)) parts.push(part);
    for (const key of (await partsOf(path, cut)).keys()) known.add(key);
  }
  return {
    parts: parts.length,
    bytes: parts.reduce((sum, { length }) => sum + length, 0),
    zstdBytes: LEVELS.map((level) => parts.reduce((sum, part) => sum + packedSize(part, level), 0)),
  };
}

/** A library and a program; the new ones differ in a few bytes, in a name, or not at all. */
function twoClosures() {
  const large = noise(1_500_000, "large");
  const changed = Buffer.concat([
    large.subarray(0, 700_000),
    prose(999, "x"),
    large.subarray(800_000),
  ]);
  const shared = standIn("shared", "", { "plain.txt": prose(5_000, "s"), empty: noise(0, "") }, []);
  const same = { "plain.bin": noise(300_000, "p"), "lib.so": prose(700_000, "lib") };
  const lib1 = standIn("lib-1", "old", same, [shared]);
  const lib2 = standIn("lib-1", "new", same, [shared]);
  const tiny = { "plain.a": prose(100, "a"), "plain.b": prose(100, "a"), script: prose(50, "b") };
  const app1 = standIn("app-1", "", { ...tiny, "plain.large": large, "data.txt": large }, [lib1]);
  const app2 = standIn("app-2", "", { ...tiny, "plain.large": changed, "data.txt": changed }, [
    lib2,
    shared,
  ]);
  return { old: [shared, lib1, app1], new: [shared, lib2, app2], pair: [app1, app2] as const };
}

describe("closures whose parts are counted by hand", () => {
  it("every cut of an update and of all at rest has exactly these parts and sizes", async () => {
    const closures = twoClosures();
    const { survey } = await startSurvey(await cacheObjects([...closures.old, ...closures.new]));
    const [app1, app2] = closures.pair;
    const report = await survey([[app1.storePath, app2.storePath]]);
    const [pair] = report.pairs;
    expect(pair?.paths.map(({ storePath }) => storePath)).toEqual(
      closures.new.slice(1).map(({ storePath }) => storePath),
    );
    expect(pair?.unchanged.paths).toBe(1);
    for (const cut of DEDUP_CUTS) {
      const { old, new: next } = closures;
      const update = await missing(old, next.slice(1), cut);
      expect(pair?.update.cuts[cut.id], cut.id).toMatchObject(update);
      const lib = await missing(old, next.slice(1, 2), cut);
      expect(pair?.paths[0]?.cuts[cut.id], cut.id).toMatchObject(lib);
      expect(pair?.atRest.old.cuts[cut.id], cut.id).toMatchObject(await missing([], old, cut));
      const both = await missing([], [...old, ...next], cut);
      expect(pair?.atRest.both.cuts[cut.id], cut.id).toMatchObject(both);
      expect(report.sum.atRest.cuts[cut.id], cut.id).toMatchObject(both);
    }
  });

  it("a file of more than one frame is one part", async () => {
    const large = Buffer.concat([noise(8 << 20, "large"), prose(500_000, "p")]);
    const path = standIn("p", "", { large }, []);
    const { survey } = await startSurvey(await cacheObjects([path], "none"));
    const { sum } = await survey([[undefined, path.storePath]]);
    for (const cut of DEDUP_CUTS.filter(({ sizes }) => sizes === undefined)) {
      expect(sum.update.cuts[cut.id]).toMatchObject(await missing([], [path], cut));
    }
  });

  it("NARs count raw and as they were served", async () => {
    const closures = twoClosures();
    const objects = await cacheObjects([...closures.old, ...closures.new], "gzip");
    const { cache, survey } = await startSurvey(objects);
    const [app1, app2] = closures.pair;
    const report = await survey([[app1.storePath, app2.storePath]]);
    const [pair] = report.pairs;
    const sizes = closures.new.slice(1).map(({ files }) => encodeStandInNar(files).length);
    expect(pair?.paths.map(({ narBytes }) => narBytes)).toEqual(sizes);
    const served = (path: StandInPath) => {
      const narinfo = String(objects[`/${path.storePath.slice(0, 32)}.narinfo`]);
      return Number(/^FileSize: (\d+)$/m.exec(narinfo)?.[1]);
    };
    expect(pair?.paths.map(({ servedBytes }) => servedBytes)).toEqual(
      closures.new.slice(1).map(served),
    );
    expect(pair?.atRest.old.servedBytes).toBe(
      closures.old.reduce((sum, path) => sum + served(path), 0),
    );
    expect(cache.seen("nar").length).toBe(5);
  });

  it("a rebuild that changed only hashes costs no part of a normal form", async () => {
    const files = { "plain.bin": noise(100_000, "p"), "lib.so": noise(2 << 20, "lib") };
    const [old, next] = ["old", "new"].map((seed) => standIn("lib", seed, files, []));
    if (old === undefined || next === undefined) throw new Error("two were made");
    const { survey } = await startSurvey(await cacheObjects([old, next]));
    const { sum } = await survey([[old.storePath, next.storePath]]);
    const parts = DEDUP_CUTS.map(({ id }) => [id, sum.update.cuts[id]?.parts]);
    expect(Object.fromEntries(parts)).toMatchObject({
      files: 1,
      "files-normal": 0,
      "chunks16k-normal": 0,
      "chunks64k-normal": 0,
      "chunks256k-normal": 0,
    });
    expect(sum.update.cuts.chunks16k?.parts).toBeGreaterThan(0);
    const metadata = sum.update.cuts["files-normal"]?.metadataBytes ?? 0;
    expect(sum.update.cuts["files-normal"]?.freeChoiceBytes).toEqual([metadata, metadata]);
    // Two entries of a directory; a file that is listed, with one chunk and one occurrence.
    expect(metadata).toBe("plain.bin".length + "lib.so".length + 2 * 44 + 46 + 38 + 4);
  });

  it("free choice never costs more than the NARs, and counts who took one", async () => {
    const old = standIn("app", "1", { "plain.a": noise(500_000, "1") }, []);
    const kept = standIn("app", "2", { "plain.a": noise(500_000, "1") }, []);
    const other = standIn("other", "", { "plain.b": noise(500_000, "2") }, [kept]);
    const { survey } = await startSurvey(await cacheObjects([old, kept, other]));
    const { sum, pairs } = await survey([[old.storePath, other.storePath]]);
    const cut = sum.update.cuts.chunks16k;
    expect(cut?.pathsByNar).toEqual([1, 1]);
    const [first, second] = pairs[0]?.paths ?? [];
    expect(first?.freeChoice.way).not.toBe("nar");
    const { metadataBytes = 0, zstdBytes = [] } = first?.cuts.chunks16k ?? {};
    const served = second?.servedBytes ?? 0;
    expect(cut?.freeChoiceBytes).toEqual(zstdBytes.map((bytes) => bytes + metadataBytes + served));
    expect(second?.freeChoice.bytes).toBeLessThanOrEqual(served);
  });

  it("without an old closure, everything is new; pairs add up", async () => {
    const closures = twoClosures();
    const { cache, survey } = await startSurvey(
      await cacheObjects([...closures.old, ...closures.new]),
    );
    const [app1, app2] = closures.pair;
    const report = await survey([
      [undefined, app1.storePath],
      [app1.storePath, app2.storePath],
    ]);
    const [first, second] = report.pairs;
    expect(first?.old).toBe(undefined);
    expect(first?.update.paths).toBe(3);
    expect(first?.update.cuts.files?.bytes).toBe(first?.atRest.new.cuts.files?.bytes);
    expect(report.sum.update.servedBytes).toBe(
      (first?.update.servedBytes ?? 0) + (second?.update.servedBytes ?? 0),
    );
    expect(cache.seen("nar").length).toBe(5);
  });
});

describe("a survey that is interrupted", () => {
  it("goes on where it was, and reports the same", async () => {
    const closures = twoClosures();
    const { cache, survey } = await startSurvey(
      await cacheObjects([...closures.old, ...closures.new]),
    );
    const pairs = [closures.pair.map(({ storePath }) => storePath) as [StorePath, StorePath]];
    const whole = await survey(pairs);
    const stateFile = temporaryFile("state");
    const abort = new AbortController();
    const onProgress = ({ phase, paths }: SurveyProgress) => {
      if (phase === "nars" && paths === 2) abort.abort(new Error("killed"));
    };
    const options = { stateFile, concurrency: 1 };
    const interrupted = survey(pairs, { ...options, signal: abort.signal, onProgress });
    await expect(interrupted).rejects.toThrow("killed");
    const before = cache.seen("nar").length;
    expect(await survey(pairs, options)).toEqual(whole);
    expect(cache.seen("nar").length - before).toBeLessThanOrEqual(3);
    const after = cache.seen("nar").length;
    expect(await survey(pairs, options)).toEqual(whole);
    expect(cache.seen("nar").length).toBe(after);
  });

  it("measures again what its state file lost, wherever that was cut", async () => {
    const files = [1, 2, 3].map((seed) => ({ "plain.x": prose(40_000, String(seed)) }));
    const paths: StandInPath[] = [];
    for (const each of files) paths.push(standIn("p", each["plain.x"].toString(), each, paths));
    const { cache, survey } = await startSurvey(await cacheObjects(paths));
    const root = paths.at(-1)?.storePath;
    if (root === undefined) throw new Error("paths were made");
    const stateFile = temporaryFile("state");
    const whole = await survey([[undefined, root]], { stateFile });
    const bytes = readFileSync(stateFile);
    const lastLine = bytes.lastIndexOf("\n", bytes.length - 2) + 1;
    for (const size of [lastLine, lastLine + 1, lastLine + 100, bytes.length - 1]) {
      writeFileSync(stateFile, bytes);
      truncateSync(stateFile, size);
      const before = cache.seen("nar").length;
      expect(await survey([[undefined, root]], { stateFile })).toEqual(whole);
      expect(cache.seen("nar").length - before).toBe(size === bytes.length - 1 ? 0 : 1);
      expect(await survey([[undefined, root]], { stateFile })).toEqual(whole);
      expect(cache.seen("nar").length - before).toBe(size === bytes.length - 1 ? 0 : 1);
    }
  });

  it("a state file of other settings or of something else is refused, unchanged", async () => {
    const path = standIn("p", "", { "plain.x": prose(1_000, "x") }, []);
    const { survey } = await startSurvey(await cacheObjects([path]));
    const stateFile = temporaryFile("state");
    await survey([[undefined, path.storePath]], { stateFile });
    const other = survey([[undefined, path.storePath]], { stateFile, zstdLevels: [9] });
    await expect(other).rejects.toThrow(/of a run with other settings/);
    writeFileSync(stateFile, "my thesis\n");
    const refused = survey([[undefined, path.storePath]], { stateFile });
    await expect(refused).rejects.toThrow(/is not a state of castore bench dedup/);
    expect(readFileSync(stateFile, "utf8")).toBe("my thesis\n");
  });
});
