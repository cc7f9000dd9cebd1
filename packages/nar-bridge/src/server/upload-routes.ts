import { CastoreError, type LocalStore, type Node } from "@castore/castore";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { type Compression, decompress } from "../compression/compression.ts";
import type { Log } from "../log.ts";
import { createContentCheck, hasContent } from "../nar/content-check.ts";
import { ingestNar } from "../nar/nar-ingest.ts";
import { parseStoreHashFile } from "../nix/cache-url.ts";
import { isContentAddressed } from "../nix/content-address.ts";
import type { SecretKey } from "../nix/ed25519-key.ts";
import { formatFingerprint } from "../nix/fingerprint.ts";
import type { NarInfo } from "../nix/nar-info.ts";
import { decodeNarInfo, NAR_INFO_BYTES_MAX } from "../nix/nar-info-text.ts";
import { type Signature, signFingerprint } from "../nix/signature.ts";
import type { RootSigningKey } from "../nix/signed-root.ts";
import { type StoreDir, storePathHash } from "../nix/store-path.ts";
import type { LocalPathInfoService } from "../path-infos/local-path-info-service.ts";
import { type PathInfo, pathInfoOf } from "../path-infos/path-info.ts";
import { dropRequest, readDecodedRequest, requestBody } from "../upstream/http-request.ts";
import { clientSignal } from "./http-reply.ts";
import { checkNarFileName, type PendingNar, PendingNars } from "./pending-nars.ts";
import { addTextRoutes } from "./text-routes.ts";
import { type UploadAccess, uploadRefusal } from "./upload-access.ts";

/** How a NAR is compressed, by the end of its file name. */
const COMPRESSION_OF: Readonly<Record<string, Compression>> = {
  ".nar": "none",
  ".nar.xz": "xz",
  ".nar.zst": "zstd",
  ".nar.gz": "gzip",
  ".nar.bz2": "bzip2",
  ".nar.br": "br",
};

export interface UploadOptions {
  readonly access: UploadAccess;
  /** Sign narinfos that come without a signature; without keys those are refused. */
  readonly signingKeys: readonly SecretKey[];
  /** Sign the roots of what is uploaded. */
  readonly rootSigningKeys: readonly RootSigningKey[];
}

export interface UploadRoutesOptions {
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly storeDir: StoreDir;
  readonly uploads: UploadOptions;
  /** Told of each path that became visible. */
  readonly onUploaded?: (pathInfo: PathInfo) => void;
  readonly log: Log;
}

/** Adds what `nix copy --to` needs: PUT of NARs, narinfos, listings, logs and realisations. */
export function addUploadRoutes(server: FastifyInstance, options: UploadRoutesOptions): void {
  const pending = new PendingNars(options.store);
  server.addHook("onReady", async () => await pending.sweep());
  const put = (
    url: string,
    handler: (request: FastifyRequest, reply: FastifyReply) => Promise<void>,
  ) =>
    server.put(url, async (request, reply) => {
      const { access } = options.uploads;
      const refusal = uploadRefusal(request.raw, access);
      if (refusal === undefined) return await handler(request, reply);
      if (refusal.status === 401) void reply.header("www-authenticate", 'Basic realm="castore"');
      await reply.code(refusal.status).type("text/plain").send(`${refusal.reason}\n`);
    });
  server.head("/nar/:file", async (request, reply) => {
    const { file } = request.params as { readonly file: string };
    if (pending.get(file) === undefined) return reply.callNotFound();
    await reply.send();
  });
  put("/nar/:file", async (request, reply) => {
    const { file } = request.params as { readonly file: string };
    await pending.put(file, await receiveNar(options, file, request, reply));
    await reply.send("");
  });
  put("/:file", async (request, reply) => await receiveTopLevel(options, pending, request, reply));
  addTextRoutes(server, put, options.store);
}

async function receiveNar(
  { store }: UploadRoutesOptions,
  file: string,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<PendingNar> {
  checkNarFileName(file);
  const suffix = /\.nar(\.[a-z0-9]+)?$/.exec(file)?.[0] ?? "";
  const compression = COMPRESSION_OF[suffix];
  if (compression === undefined) {
    throw new CastoreError("INVALID", `nar/${file}: the name tells no compression that is known`);
  }
  const signal = clientSignal(reply);
  const nar = decompress(compression, requestBody(request), { signal });
  const { blobs, directories } = store;
  const { node, narHash, narSize } = await ingestNar(nar, { blobs, directories }, { signal });
  return { node, narHash, narSize };
}

async function receiveTopLevel(
  options: UploadRoutesOptions,
  pending: PendingNars,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<void> {
  const { file } = request.params as { readonly file: string };
  if (file === "nix-cache-info") {
    // What this cache says of itself is not up to its clients.
    await dropRequest(request);
    await reply.send("");
    return;
  }
  const asked = parseStoreHashFile(file);
  if (asked === undefined) return reply.callNotFound();
  if (asked.type === "listing") {
    // Made from the contents here, when it is asked for.
    await dropRequest(request);
    await reply.send("");
    return;
  }
  const text = await readDecodedRequest(request, NAR_INFO_BYTES_MAX);
  const narInfo = decodeNarInfo(text, options.storeDir);
  if (storePathHash(narInfo.storePath) !== asked.storeHash) {
    throw new CastoreError("INVALID", `${file}: is of ${narInfo.storePath}`);
  }
  await acceptNarInfo(options, pending, narInfo);
  await reply.send("");
}

/** Everything that the narinfo claims is checked before the path is visible. */
async function acceptNarInfo(
  options: UploadRoutesOptions,
  pending: PendingNars,
  narInfo: NarInfo,
): Promise<void> {
  const { pathInfos, uploads } = options;
  const { storePath, narHash, narSize } = narInfo;
  const file = narInfo.url.replace(/^nar\//, "");
  const uploaded = pending.get(file);
  const known = uploaded ?? pathInfos.findNar(narHash);
  if (known === undefined) {
    throw new CastoreError("INCOMPLETE", `${storePath}: its NAR ${narInfo.url} was not uploaded`);
  }
  if (known.narHash !== narHash || known.narSize !== narSize) {
    const got = `${known.narSize} bytes, ${known.narHash}`;
    const want = `${narSize} bytes, ${narHash}`;
    throw new CastoreError("CORRUPT", `${storePath}: its NAR has ${got}, not ${want}`);
  }
  await checkReferences(narInfo, pathInfos);
  const signatures = await acceptedSignatures(options, narInfo, known.node);
  const rootSignatures = uploads.rootSigningKeys.map((key) => key.sign(narInfo, known.node));
  const pathInfo = pathInfoOf({ ...narInfo, signatures }, known.node, rootSignatures);
  await pathInfos.putStored([{ pathInfo, proof: { by: "rendered" } }]);
  options.onUploaded?.(pathInfo);
  if (uploaded !== undefined) await pending.delete(file);
}

async function checkReferences(
  { storePath, references }: NarInfo,
  pathInfos: LocalPathInfoService,
): Promise<void> {
  const missing: string[] = [];
  for (const reference of references) {
    if (reference === storePath) continue;
    if ((await pathInfos.get(storePathHash(reference))) === undefined) missing.push(reference);
  }
  if (missing.length > 0) {
    throw new CastoreError("INCOMPLETE", `${storePath}: refers to ${missing.join(", ")}, not here`);
  }
}

/** Those that came, else ours; none for what its contents vouch for. Rejects DENIED. */
async function acceptedSignatures(
  { store, uploads }: UploadRoutesOptions,
  narInfo: NarInfo,
  root: Node,
): Promise<readonly Signature[]> {
  if (narInfo.signatures.length > 0) return narInfo.signatures;
  const { storePath, references, ca } = narInfo;
  if (ca !== undefined && isContentAddressed(narInfo)) {
    const check = createContentCheck({ storePath, references, ca });
    if (!(await hasContent(check, root, store))) {
      throw new CastoreError("CORRUPT", `${storePath}: its contents are not those of its CA`);
    }
  } else if (uploads.signingKeys.length === 0) {
    const advice = "sign it, or start the server with --signing-key";
    throw new CastoreError("DENIED", `${storePath}: has no signature; ${advice}`);
  }
  return uploads.signingKeys.map((key) => signFingerprint(key, formatFingerprint(narInfo)));
}
