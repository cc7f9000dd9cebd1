import { describe, expect, it } from "vitest";
import { ManualClock } from "../../../test/support/manual-clock.ts";
import {
  cacheObjects,
  noise,
  pathObjects,
  prose,
  standInStorePath,
} from "../../../test/support/stand-in-closure.ts";
import { storePathHash } from "../src/nix/store-path.ts";
import { TrustedKeys } from "../src/nix/trusted-keys.ts";
import { standIn, startSurvey } from "./dedup-fixture.ts";

describe("politeness", () => {
  it("no more requests run at once than allowed", async () => {
    const paths = Array.from({ length: 12 }, (_, i) =>
      standIn(`p-${i}`, "", { "plain.x": noise(1_000, String(i)) }, []),
    );
    const root = standIn("root", "", {}, paths);
    const objects = await cacheObjects([...paths, root]);
    const { cache, survey } = await startSurvey({});
    let [running, most] = [0, 0];
    for (const [path, body] of Object.entries(objects)) {
      cache.objects.set(path, async () => {
        running++;
        most = Math.max(most, running);
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        return { body };
      });
    }
    await survey([[undefined, root.storePath]], { concurrency: 3 });
    expect(most).toBeLessThanOrEqual(3);
  });

  it("bytes come no faster than the rate", async () => {
    const path = standIn("p", "", { "plain.x": noise(1_000_000, "x") }, []);
    const { cache, survey } = await startSurvey(await cacheObjects([path], "none"));
    const clock = new ManualClock();
    const started = clock.now();
    let isDone = false;
    const surveyed = survey([[undefined, path.storePath]], {
      ...{ clock, bytesPerSecond: 100_000 },
    }).finally(() => {
      isDone = true;
    });
    while (!isDone) {
      if (clock.waiting > 0) clock.advance(100);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await surveyed;
    const bytes = cache.seen("nar")[0]?.bytes ?? 0;
    expect(bytes).toBeGreaterThan(1_000_000);
    expect(clock.now() - started).toBeGreaterThanOrEqual(bytes / 100);
  });

  it("a cache that is busy is asked again, a little later", async () => {
    const path = standIn("p", "", { "plain.x": prose(1_000, "x") }, []);
    const { cache, survey } = await startSurvey(await cacheObjects([path]));
    cache.fail("narinfo", { kind: "status", status: 503 }, 2);
    const clock = new ManualClock();
    const surveyed = survey([[undefined, path.storePath]], { clock });
    await clock.untilWaitingFor(500);
    clock.advance(500);
    await clock.untilWaitingFor(1_000);
    clock.advance(1_000);
    expect((await surveyed).sum.update.paths).toBe(1);
  });
});

describe("a cache that is broken or hostile", () => {
  const path = standIn("p", "", { "plain.x": prose(100_000, "x") }, []);
  const hash = storePathHash(path.storePath);

  async function surveyWith(change: (objects: Record<string, Buffer | string>) => void, more = {}) {
    const objects = await cacheObjects([path]);
    change(objects);
    const { survey } = await startSurvey(objects);
    return await survey([[undefined, path.storePath]], more);
  }

  function edit(from: RegExp, to: string) {
    return (objects: Record<string, Buffer | string>) => {
      const key = `/${hash}.narinfo`;
      objects[key] = String(objects[key]).replace(from, to);
    };
  }

  it.each([
    ["a path that is not there", (o) => delete o[`/${hash}.narinfo`], "INCOMPLETE"],
    [
      "a reference that is not there",
      edit(/^References: .*$/m, `References: ${"0".repeat(32)}-x`),
      "INCOMPLETE",
    ],
    [
      "the narinfo of another path",
      edit(/store\/[0-9a-z]{32}-/, `store/${"1".repeat(32)}-`),
      "INVALID",
    ],
    ["a NAR with another hash", edit(/sha256:[0-9a-z]{10}/, "sha256:0000000000"), "CORRUPT"],
    ["a NAR that is too long", edit(/^NarSize: .*$/m, "NarSize: 1000"), "CORRUPT"],
    ["a NAR that is too short", edit(/^NarSize: .*$/m, "NarSize: 100000000"), "CORRUPT"],
    ["a NAR beyond all measure", edit(/^NarSize: .*$/m, "NarSize: 99999999999999"), "EXHAUSTED"],
    [
      "a compression that nobody knows",
      edit(/^Compression: .*$/m, "Compression: rot13"),
      "INVALID",
    ],
    [
      "a NAR that is none",
      (o) => {
        for (const key of Object.keys(o))
          if (key.startsWith("/nar/")) o[key] = Buffer.from("hello");
      },
      "CORRUPT",
    ],
    ["a NAR that is elsewhere", edit(/^URL: .*$/m, "URL: file:///etc/passwd"), "DENIED"],
  ] satisfies [string, (objects: Record<string, Buffer | string>) => void, string][])(
    "%s is an error that names it",
    async (_, change, code) => {
      const surveyed = surveyWith(change, { clock: new ManualClock() });
      const name = expect.stringMatching(new RegExp(`${hash}|0{32}`));
      await expect(surveyed).rejects.toMatchObject({ code, message: name });
    },
  );

  it("a narinfo that no trusted key signed is refused where keys are named", async () => {
    const trustedKeys = TrustedKeys.parse([
      "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=",
    ]);
    const surveyed = surveyWith(() => {}, { trustedKeys });
    await expect(surveyed).rejects.toMatchObject({ code: "DENIED" });
  });

  it("references in a circle end", async () => {
    const [a, b] = ["a", "b"].map((name) => standInStorePath(name));
    if (a === undefined || b === undefined) throw new Error("two were made");
    const objects = {
      ...(await pathObjects({ storePath: a, files: {}, references: [b] }, "none")),
      ...(await pathObjects({ storePath: b, files: {}, references: [a] }, "none")),
    };
    const { survey } = await startSurvey(objects);
    const { pairs } = await survey([[undefined, a]]);
    expect(pairs[0]?.paths.map(({ storePath }) => storePath)).toEqual([b, a]);
  });
});
