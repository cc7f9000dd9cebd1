import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { get } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openLocalStore } from "@castore/castore";
import {
  calculateNar,
  createLocalPathInfoService,
  encodeNixbase32,
  parseNarHash,
  parseStoreHash,
} from "@castore/nar-bridge";
import { afterEach, expect, it } from "vitest";
import { startCastore } from "./support/castore-process.ts";
import { StandInCache } from "./support/stand-in-cache.ts";

const STORE_HASH = "0".repeat(32);
const STORE_PATH = `/nix/store/${STORE_HASH}-killed`;
const store = mkdtempSync(join(tmpdir(), "castore-kill-"));
afterEach(() => rmSync(store, { recursive: true, force: true }));

function narString(text: string): Buffer {
  const padded = Buffer.alloc(8 + 8 * Math.ceil(text.length / 8));
  padded.writeBigUInt64LE(BigInt(text.length));
  padded.write(text, 8);
  return padded;
}

/** Of one file of noise. */
function makeNar(bytes: number): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes));
  const head = ["nix-archive-1", "(", "type", "regular", "contents"].map(narString);
  return Buffer.concat([...head, length, randomBytes(bytes), narString(")")]);
}

function signedNarInfo(nar: Buffer) {
  const narHash = encodeNixbase32(createHash("sha256").update(nar).digest());
  const keys = generateKeyPairSync("ed25519");
  const fingerprint = `1;${STORE_PATH};sha256:${narHash};${nar.byteLength};`;
  const signature = sign(null, Buffer.from(fingerprint), keys.privateKey).toString("base64");
  const x = String(keys.publicKey.export({ format: "jwk" }).x);
  const narInfo =
    `StorePath: ${STORE_PATH}\nURL: nar/x.nar\nCompression: none\nNarHash: sha256:${narHash}\n` +
    `NarSize: ${nar.byteLength}\nReferences: \nSig: test-1:${signature}\n`;
  const publicKey = `test-1:${Buffer.from(x, "base64url").toString("base64")}`;
  return { narInfo, narHash, publicKey };
}

it("killed in the middle of an ingest, a bridge leaves no unproven path", async () => {
  const nar = makeNar(48 << 20);
  const { narInfo, narHash, publicKey } = signedNarInfo(nar);
  const objects = { [`/${STORE_HASH}.narinfo`]: narInfo, "/nar/x.nar": nar };
  await using upstream = await StandInCache.start({ objects });
  upstream.fail("nar", { kind: "stall", afterBytes: 40 << 20 }, 1);
  const args = ["--store", store, "--upstream", upstream.origin];
  const start = () => startCastore("bridge", [...args, "--trusted-public-key", publicKey]);
  const file = `/nar/${STORE_HASH}-${narHash}.nar`;
  {
    await using bridge = await start();
    const asked = get(bridge.url + file).on("error", () => {});
    const [response] = await once(asked, "response");
    let received = 0;
    for await (const piece of response) {
      received += piece.length;
      if (received >= 39 << 20) break;
    }
    await bridge.kill();
  }
  expect(readdirSync(store)).not.toEqual([]);
  {
    await using opened = await openLocalStore({ path: store });
    const pathInfos = createLocalPathInfoService(opened, {
      calculateNar: (node, options) => calculateNar(node, opened, options),
    });
    expect(await pathInfos.get(parseStoreHash(STORE_HASH))).toBeUndefined();
    expect(pathInfos.findNar(parseNarHash(`sha256:${narHash}`))).toBeUndefined();
  }
  await using bridge = await start();
  for (let round = 0; round < 2; round++) {
    const answer = await fetch(bridge.url + file);
    expect(Buffer.from(await answer.arrayBuffer()).equals(nar)).toBe(true);
  }
  expect(upstream.seen("nar").length).toBe(2);
  await bridge.stop();
});

it("ends within two seconds after SIGTERM, though a NAR is under way", async () => {
  const nar = makeNar(48 << 20);
  const { narInfo, narHash, publicKey } = signedNarInfo(nar);
  const objects = { [`/${STORE_HASH}.narinfo`]: narInfo, "/nar/x.nar": nar };
  await using upstream = await StandInCache.start({ objects });
  upstream.fail("nar", { kind: "stall", afterBytes: 40 << 20 });
  await using bridge = await startCastore("bridge", [
    ...["--store", store, "--upstream", upstream.origin, "--trusted-public-key", publicKey],
  ]);
  const asked = get(`${bridge.url}/nar/${STORE_HASH}-${narHash}.nar`).on("error", () => {});
  const [response] = await once(asked, "response");
  response.on("error", () => {}).resume();
  await bridge.stop();
});
