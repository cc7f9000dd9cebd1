import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { runCastore, startCastore } from "./support/castore-process.ts";
import { StandInCache } from "./support/stand-in-cache.ts";
import {
  cacheObjects,
  encodeStandInNar,
  noise,
  type StandInPath,
  standInStorePath,
} from "./support/stand-in-closure.ts";

const PATHS = 12;

const directory = mkdtempSync(join(tmpdir(), "castore-gc-"));
const store = join(directory, "store");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Paths that share a file, as versions of a package do. */
const paths = Array.from({ length: PATHS }, (_, index): StandInPath => {
  const own = noise(300_000 + index * 20_000, `own ${index}`);
  const files = { small: Buffer.from(`small ${index}`), own, shared: noise(500_000, "shared") };
  return { storePath: standInStorePath(`path-${index}`), files, references: [] };
});

const keys = generateKeyPairSync("ed25519");
const x = String(keys.publicKey.export({ format: "jwk" }).x);
const publicKey = `test-1:${Buffer.from(x, "base64url").toString("base64")}`;

function signed(narInfo: string): string {
  const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(narInfo)?.[1];
  const fingerprint = `1;${field("StorePath")};${field("NarHash")};${field("NarSize")};`;
  const signature = sign(null, Buffer.from(fingerprint), keys.privateKey).toString("base64");
  return `${narInfo}Sig: test-1:${signature}\n`;
}

async function signedObjects(): Promise<Record<string, Buffer | string>> {
  const objects = await cacheObjects(paths);
  for (const [name, object] of Object.entries(objects)) {
    if (name.endsWith(".narinfo")) objects[name] = signed(object.toString());
  }
  return objects;
}

it("beside castore gc a bridge gives right NARs and loses nothing", async () => {
  await using upstream = await StandInCache.start({ objects: await signedObjects() });
  const args = ["--store", store, "--upstream", upstream.origin];
  await using bridge = await startCastore("bridge", [...args, "--trusted-public-key", publicKey]);
  const read = async ({ storePath, files }: StandInPath): Promise<void> => {
    const narInfo = await fetch(`${bridge.url}/${storePath.slice(0, 32)}.narinfo`);
    const url = /^URL: (.*)$/m.exec(await narInfo.text())?.[1];
    const nar = Buffer.from(await (await fetch(`${bridge.url}/${url}`)).arrayBuffer());
    const digest = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
    expect(digest(nar)).toBe(digest(encodeStandInNar(files)));
  };
  let isOver = false;
  let reads = 0;
  const reader = async (from: number): Promise<void> => {
    for (let index = from; !isOver || reads <= PATHS; index++) {
      const path = paths[index % PATHS];
      if (path !== undefined) await read(path);
      reads++;
    }
  };
  const collect = async (): Promise<void> => {
    try {
      // Evicts what was read least recently; the bridge fetches it again. Waits for its leases.
      const gc = await runCastore(["gc", "--json", "--store", store, "--max-size", "2M"]);
      expect({ code: gc.code, stderr: gc.stderr }).toEqual({ code: 0, stderr: "" });
    } finally {
      isOver = true;
    }
  };
  await Promise.all([collect(), reader(0), reader(4), reader(8)]);
  expect(reads).toBeGreaterThan(PATHS);
  for (const path of paths) await read(path);
  await bridge.stop();
  const { code, stdout } = await runCastore(["fsck", "--store", store]);
  expect(stdout).toMatch(/ 0 faults, 0 fetched anew, 0 missing$/m);
  expect(code).toBe(0);
}, 300_000);
