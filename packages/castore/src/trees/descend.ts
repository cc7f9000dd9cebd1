import { CastoreError } from "../castore-error.ts";
import { type CastorePath, castorePathNames } from "../model/castore-path.ts";
import type { StoredDirectory } from "../model/directory-closure.ts";
import type { Node } from "../model/node.ts";

/**
 * The node at `path` below `root`; undefined where there is none, also below a file or symlink,
 * which is not followed. Rejects INCOMPLETE where a directory on the way is missing.
 */
export async function descend(
  root: Node,
  path: CastorePath,
  get: StoredDirectory,
): Promise<Node | undefined> {
  let node: Node | undefined = root;
  for (const name of castorePathNames(path)) {
    if (node?.type !== "directory") return undefined;
    const directory = await get(node.digest);
    if (directory === undefined) {
      throw new CastoreError("INCOMPLETE", `directory ${node.digest} is missing`);
    }
    node = directory.get(name);
  }
  return node;
}
