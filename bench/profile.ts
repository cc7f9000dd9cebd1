import type { NixWorld } from "../test/support/nix-world.ts";

/** A path that refers to all of `paths`, as a user's profile does: they are one closure by it. */
export async function buildProfile(
  world: NixWorld,
  name: string,
  paths: readonly string[],
): Promise<string> {
  const listed = paths.map((path) => `(builtins.storePath ${path})`).join(" ");
  const expression = `builtins.toFile "${name}" (toString [ ${listed} ])`;
  const args = ["--impure", "--raw", "--store", world.store.uri, "--expr", expression];
  return (await world.run("nix", ["eval", ...args])).stdout.trim();
}
