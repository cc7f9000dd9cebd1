import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { type StandInPath, standInStorePath } from "../../../test/support/stand-in-closure.ts";
import { type SurveyOptions, surveyDedup } from "../src/dedup/dedup-survey.ts";
import { type StorePath, storePathHash } from "../src/nix/store-path.ts";
import { createHttpClient } from "../src/upstream/http-client.ts";
import { createUpstream } from "../src/upstream/upstream.ts";

/** What the surveys of tests compress at. */
export const LEVELS = [1, 3];

const open: AsyncDisposable[] = [];
afterEach(async () => {
  for (const resource of open.splice(0).reverse()) await resource[Symbol.asyncDispose]();
});

/** A file of that name in a directory of its own, until the test is over. */
export function temporaryFile(name: string): string {
  const directory = mkdtempSync(join(tmpdir(), "castore-dedup-"));
  open.push({ [Symbol.asyncDispose]: async () => rmSync(directory, { recursive: true }) });
  return join(directory, name);
}

/** A cache that serves `objects`, and the survey of it. */
export async function startSurvey(objects: Record<string, Buffer | string>) {
  const cache = await StandInCache.start({ objects });
  const http = createHttpClient({ environment: {} });
  open.push(cache, http);
  const upstream = createUpstream({ http, url: cache.origin });
  const survey = (pairs: readonly (readonly [StorePath | undefined, StorePath])[], more = {}) =>
    surveyDedup({
      ...{ upstream, zstdLevels: LEVELS, concurrency: 4, ...more },
      pairs: pairs.map(([old, next]) => ({
        old: old && storePathHash(old),
        new: storePathHash(next),
      })),
    } satisfies SurveyOptions);
  return { cache, survey };
}

/** A path with files that mention what it refers to, and itself. */
export function standIn(
  name: string,
  seed: string,
  files: StandInPath["files"],
  refs: StandInPath[],
) {
  const storePath = standInStorePath(name, seed);
  const paths = [storePath, ...refs.map((ref) => ref.storePath)];
  const mentions = Buffer.from(paths.map((path) => `/nix/store/${path}/bin`).join("\n"));
  const withMentions = Object.entries(files).map(([file, contents]) => {
    const middle = contents.length >> 1;
    const parts = [contents.subarray(0, middle), mentions, contents.subarray(middle)];
    return [file, file.startsWith("plain") ? contents : Buffer.concat(parts)];
  });
  return {
    storePath,
    files: Object.fromEntries(withMentions),
    references: paths,
  } satisfies StandInPath;
}
