import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LocalStore, openLocalStore } from "@castore/castore";
import { calculateNar } from "../src/nar/nar-render.ts";
import type { SecretKey } from "../src/nix/ed25519-key.ts";
import type { RootSigningKey } from "../src/nix/signed-root.ts";
import { NIX_STORE_DIR } from "../src/nix/store-path.ts";
import {
  createLocalPathInfoService,
  type LocalPathInfoService,
} from "../src/path-infos/local-path-info-service.ts";
import { RecipeStore } from "../src/path-infos/recipe-store.ts";
import { createCacheServer } from "../src/server/cache-server.ts";
import { listen } from "../src/server/http-server.ts";
import type { UploadAccess } from "../src/server/upload-access.ts";
import { narInfoPath, type TestPath } from "./path-fixture.ts";
import { type RawAnswer, raw } from "./raw-client.ts";

export interface ServeOptions {
  readonly access?: UploadAccess;
  readonly signingKeys?: readonly SecretKey[];
  readonly rootSigningKeys?: readonly RootSigningKey[];
  readonly upgrade?: boolean;
  /** The store's directory, which the caller removes; a temporary one by default. */
  readonly directory?: string;
  readonly port?: number;
}

/** `castore serve` in this process, over a store of its own. */
export interface Serve extends AsyncDisposable {
  /** Without a slash at its end. */
  readonly url: string;
  readonly store: LocalStore;
  readonly pathInfos: LocalPathInfoService;
  readonly log: string[];
  readonly directory: string;
}

export async function startServe(options: ServeOptions = {}): Promise<Serve> {
  const { access = { from: "loopback" }, signingKeys = [], upgrade = true, port = 0 } = options;
  const { rootSigningKeys = [] } = options;
  const path = options.directory ?? mkdtempSync(join(tmpdir(), "castore-serve-"));
  const store = await openLocalStore({ path, create: true, unleasedMs: 1 });
  const pathInfos = createLocalPathInfoService(store, {
    calculateNar: (node, callOptions) => calculateNar(node, store, callOptions),
  });
  const log: string[] = [];
  const recipes = new RecipeStore(store);
  const server = createCacheServer({
    ...{ store, pathInfos, recipes, storeDir: NIX_STORE_DIR },
    ...{ uploads: { access, signingKeys, rootSigningKeys }, upgrade, rootKeys: [] },
    log: (line) => void log.push(line),
  });
  const url = await listen(server, { host: "127.0.0.1", port });
  return {
    ...{ url, store, pathInfos, log, directory: path },
    async [Symbol.asyncDispose]() {
      await server.close();
      await recipes[Symbol.asyncDispose]();
      await store.close();
      if (options.directory === undefined) rmSync(path, { recursive: true, force: true });
    },
  };
}

export async function putNar(serve: Serve, { narInfo, file }: TestPath): Promise<RawAnswer> {
  return await raw(`${serve.url}/${narInfo.url}`, { method: "PUT", body: file });
}

export async function putNarInfo(serve: Serve, path: TestPath): Promise<RawAnswer> {
  const body = Buffer.from(path.text);
  return await raw(serve.url + narInfoPath(path), { method: "PUT", body });
}

/** Uploads paths as `nix copy --to` does, the referred to first. */
export async function upload(serve: Serve, ...paths: readonly TestPath[]): Promise<void> {
  for (const path of paths) {
    for (const put of [putNar, putNarInfo]) {
      const { status, body } = await put(serve, path);
      if (status !== 200) throw new Error(`${put.name}: ${status} ${body}`);
    }
  }
}
