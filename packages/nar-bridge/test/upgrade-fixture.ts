import { createHash, randomBytes } from "node:crypto";
import { StandInCache } from "../../../test/support/stand-in-cache.ts";
import { type StorePath, storePathHash, storePathOf } from "../src/nix/store-path.ts";
import { type Bridge, type BridgeOptions, startBridge } from "./bridge-fixture.ts";
import { directory, file, type Tree } from "./nar-fixture.ts";
import { makePath, publish, type TestPath } from "./path-fixture.ts";
import { Relay } from "./relay.ts";
import { type Serve, type ServeOptions, startServe, upload } from "./serve-fixture.ts";

/** Bytes that nothing compresses. */
export const NOISE = randomBytes(3_000_000);

/** A program with a library, a script that names a reference and itself, and small files. */
export function programTree(library: Buffer, reference: StorePath, self: StorePath): Tree {
  const script = `#!/nix/store/${reference}/bin/sh\nexec /nix/store/${self}/lib/library\n`;
  const names = Buffer.concat([NOISE.subarray(0, 900_000), Buffer.from(script)]);
  return directory({
    bin: directory({ script: file(script, true), names: file(names) }),
    lib: directory({ library: file(library) }),
    link: { type: "symlink", target: "lib/library" },
  });
}

/** The contents change only by `change`; the hashes of the paths change with `version`. */
export async function makeProgram(version: number, change?: Buffer): Promise<TestPath[]> {
  const named = (name: string) =>
    storePathOf(createHash("sha1").update(`${name} ${version}`).digest(), name);
  const [shell, program] = [named("shell"), named("program")];
  const library = Buffer.from(NOISE);
  change?.copy(library, 1_500_000);
  const tree = programTree(library, shell, program);
  return [
    await makePath("shell", file(`shell ${version}`), { change: { storePath: shell } }),
    await makePath("program", tree, {
      references: [shell, "self"],
      change: { storePath: program },
    }),
  ];
}

/** A bridge whose only upstream is a castore server, seen through a relay. */
export interface UpgradeWorld extends AsyncDisposable {
  readonly serve: Serve;
  readonly relay: Relay;
  readonly bridge: Bridge;
}

type UpgradeServeOptions = Pick<ServeOptions, "rootSigningKeys">;

export async function startUpgradeWorld(
  paths: readonly TestPath[],
  { rootSigningKeys = [], ...options }: Partial<BridgeOptions> & UpgradeServeOptions = {},
): Promise<UpgradeWorld> {
  const serve = await startServe({ rootSigningKeys });
  await upload(serve, ...paths);
  const relay = await Relay.start(serve.url);
  const bridge = await startBridge({ upstreams: [relay.url], ...options });
  return {
    ...{ serve, relay, bridge },
    async [Symbol.asyncDispose]() {
      for (const part of [bridge, relay, serve]) await part[Symbol.asyncDispose]();
    },
  };
}

/** A plain cache, and beside it a castore server that has the same paths. */
export interface CompanionWorld extends UpgradeWorld {
  readonly cache: StandInCache;
}

export async function startCompanionWorld(
  paths: readonly TestPath[],
  options: Partial<BridgeOptions> = {},
): Promise<CompanionWorld> {
  const cache = await StandInCache.start();
  publish(cache, ...paths);
  const serve = await startServe();
  await upload(serve, ...paths);
  const relay = await Relay.start(serve.url);
  const companions = new Map([[cache.origin, `${relay.url}/castore/`]]);
  const bridge = await startBridge({ upstreams: [cache.origin], companions, ...options });
  return {
    ...{ cache, serve, relay, bridge },
    async [Symbol.asyncDispose]() {
      for (const part of [bridge, relay, serve, cache]) await part[Symbol.asyncDispose]();
    },
  };
}

/** Has the bridge's store hold something, so that it asks what its next path may be made of. */
export async function holdSomething({ store }: Pick<Bridge, "store">): Promise<void> {
  await store.blobs.put([Buffer.from("what no path has")]);
}

export function storeHashOf({ narInfo }: TestPath) {
  return storePathHash(narInfo.storePath);
}
