import { createCipheriv, createHash, generateKeyPairSync, sign } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { get, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeNixbase32 } from "@castore/nar-bridge";
import { expect, it } from "vitest";
import { startCastore } from "./support/castore-process.ts";
import { StandInCache } from "./support/stand-in-cache.ts";

const FILE_BYTES = 4 * 2 ** 30;
const MEMORY_BYTES_MAX = 256 * 2 ** 20;
const STORE_PATH = `/nix/store/${"0".repeat(32)}-large`;

it("4 GiB pass through the bridge in 256 MiB of memory", async () => {
  const { narInfo, narSize, narHash, publicKey } = await signedNarInfo();
  await using upstream = await StandInCache.start({
    objects: {
      [`/${"0".repeat(32)}.narinfo`]: narInfo,
      "/nar/large.nar": async (_, response) => {
        await sendNar(response, narSize);
        return undefined;
      },
    },
  });
  const store = mkdtempSync(join(tmpdir(), "castore-memory-"));
  try {
    await using bridge = await startCastore("bridge", [
      ...["--store", store, "--upstream", upstream.origin, "--trusted-public-key", publicKey],
    ]);
    const url = `${bridge.url}/nar/${"0".repeat(32)}-${narHash}.nar`;
    // While it is fetched, then from the store.
    for (let round = 0; round < 2; round++) {
      const received = await download(url);
      expect(received).toEqual({ bytes: narSize, hash: narHash });
    }
    expect(upstream.seen("nar")).toHaveLength(1);
    expect(bridge.memoryPeak).toBeLessThanOrEqual(MEMORY_BYTES_MAX);
    await bridge.stop();
  } finally {
    rmSync(store, { recursive: true, force: true });
  }
}, 900_000);

/** A NAR of one file of noise: nothing in it is there twice. */
function* narPieces(): Generator<Buffer> {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(FILE_BYTES));
  const strings = (...texts: string[]) => Buffer.concat(texts.map(narString));
  yield strings("nix-archive-1", "(", "type", "regular", "contents");
  yield length;
  const noise = createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16));
  const zeros = Buffer.alloc(256 * 1024);
  for (let at = 0; at < FILE_BYTES; at += zeros.byteLength) yield noise.update(zeros);
  yield strings(")");
}

function narString(text: string): Buffer {
  const padded = Buffer.alloc(8 + 8 * Math.ceil(text.length / 8));
  padded.writeBigUInt64LE(BigInt(text.length));
  padded.write(text, 8);
  return padded;
}

async function sendNar(response: ServerResponse, narSize: number): Promise<void> {
  response.writeHead(200, { "content-length": narSize });
  for (const piece of narPieces()) {
    if (response.destroyed) return;
    if (!response.write(piece)) await once(response, "drain");
  }
  response.end();
}

async function signedNarInfo() {
  const hash = createHash("sha256");
  let narSize = 0;
  for (const piece of narPieces()) {
    hash.update(piece);
    narSize += piece.byteLength;
  }
  const narHash = encodeNixbase32(hash.digest());
  const keys = generateKeyPairSync("ed25519");
  const fingerprint = `1;${STORE_PATH};sha256:${narHash};${narSize};`;
  const signature = sign(null, Buffer.from(fingerprint), keys.privateKey).toString("base64");
  const x = String(keys.publicKey.export({ format: "jwk" }).x);
  const narInfo =
    `StorePath: ${STORE_PATH}\nURL: nar/large.nar\nCompression: none\n` +
    `NarHash: sha256:${narHash}\nNarSize: ${narSize}\nReferences: \nSig: test-1:${signature}\n`;
  const publicKey = `test-1:${Buffer.from(x, "base64url").toString("base64")}`;
  return { narInfo, narSize, narHash, publicKey };
}

async function download(url: string): Promise<{ bytes: number; hash: string }> {
  const hash = createHash("sha256");
  let bytes = 0;
  const request = get(url);
  const [response] = await once(request, "response");
  for await (const piece of response) {
    hash.update(piece);
    bytes += piece.length;
  }
  return { bytes, hash: encodeNixbase32(hash.digest()) };
}
