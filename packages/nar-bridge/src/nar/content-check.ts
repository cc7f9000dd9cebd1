import { createHash, type Hash } from "node:crypto";
import { type CallOptions, CastoreError, type Node } from "@castore/castore";
import type { ContentAddress } from "../nix/content-address.ts";
import { nixHashAlgorithm, nixHashOf } from "../nix/nix-hash.ts";
import { STORE_HASH_LENGTH, type StorePath, storePathHash } from "../nix/store-path.ts";
import type { NarServices } from "./nar-layout.ts";
import { renderNar } from "./nar-render.ts";

/** Reads a NAR as it goes by and tells whether its contents are those that a CA names. */
export interface ContentCheck {
  /** Adds the next bytes of the NAR; they stay the caller's and unchanged. */
  update(bytes: Uint8Array): void;
  /** Whether what was added, which must be a whole NAR, is what the CA names. Call it once. */
  matches(): boolean;
}

/** Most occurrences of a path's own hash that are counted in its NAR: 8 MiB of memory. */
export const SELF_REFERENCES_MAX = 1 << 20;

/**
 * A check of a NAR against the CA that its path follows from. `references` are the path's: where
 * the path itself is among them, its hash part is blanked out before hashing, and where it stood
 * is hashed at the end, as Nix does. Throws EXHAUSTED over SELF_REFERENCES_MAX.
 */
export function createContentCheck(path: {
  readonly storePath: StorePath;
  readonly references: readonly StorePath[];
  readonly ca: ContentAddress;
}): ContentCheck {
  const { storePath, references, ca } = path;
  const hash = createHash(nixHashAlgorithm(ca.hash));
  const digest = () => nixHashOf(nixHashAlgorithm(ca.hash), hash.digest()) === ca.hash;
  if (ca.method !== "nar") return checkFile(hash, digest);
  if (references.includes(storePath)) return checkModulo(hash, digest, storePath);
  return { update: (bytes) => void hash.update(bytes), matches: digest };
}

/** Whether the NAR of `root` passes `check`; errors as of renderNar. */
export async function hasContent(
  check: ContentCheck,
  root: Node,
  services: NarServices,
  options: CallOptions = {},
): Promise<boolean> {
  for await (const piece of renderNar(root, services, options)) check.update(piece);
  return check.matches();
}

/** The start of the NAR of a regular file that is not executable; its length and bytes follow. */
const FILE_HEAD = Buffer.concat(
  ["nix-archive-1", "(", "type", "regular", "contents"].map((word) => {
    const bytes = Buffer.alloc(8 + 8 * Math.ceil(word.length / 8));
    bytes.writeUInt32LE(word.length);
    bytes.write(word, 8);
    return bytes;
  }),
);

/** Hashes what a regular file's NAR holds; whether the rest is a NAR is its reader's to say. */
function checkFile(hash: Hash, digest: () => boolean): ContentCheck {
  const head = Buffer.alloc(FILE_HEAD.byteLength + 8);
  let filled = 0;
  let rest = 0n;
  return {
    update(bytes) {
      const taken = Math.min(head.byteLength - filled, bytes.byteLength);
      head.set(bytes.subarray(0, taken), filled);
      if (filled < head.byteLength && filled + taken === head.byteLength) {
        rest = head.readBigUInt64LE(FILE_HEAD.byteLength);
      }
      filled += taken;
      const contents = bytes.subarray(taken);
      const count = rest < contents.byteLength ? Number(rest) : contents.byteLength;
      hash.update(contents.subarray(0, count));
      rest -= BigInt(count);
    },
    matches() {
      const isFile = FILE_HEAD.equals(head.subarray(0, FILE_HEAD.byteLength));
      return isFile && filled === head.byteLength && rest === 0n && digest();
    },
  };
}

function checkModulo(hash: Hash, digest: () => boolean, storePath: StorePath): ContentCheck {
  const self = Buffer.from(storePathHash(storePath), "latin1");
  const positions: number[] = [];
  let tail = Buffer.alloc(0);
  let position = 0;
  return {
    update(bytes) {
      const window = Buffer.concat([tail, bytes]);
      let at = window.indexOf(self);
      while (at >= 0) {
        if (positions.length === SELF_REFERENCES_MAX) {
          const limit = `the limit is ${SELF_REFERENCES_MAX}`;
          throw new CastoreError("EXHAUSTED", `references of ${storePath} to itself: ${limit}`);
        }
        positions.push(position + at);
        window.fill(0, at, at + STORE_HASH_LENGTH);
        at = window.indexOf(self, at + STORE_HASH_LENGTH);
      }
      const end = Math.max(0, window.byteLength - (STORE_HASH_LENGTH - 1));
      hash.update(window.subarray(0, end));
      tail = window.subarray(end);
      position += end;
    },
    matches() {
      hash.update(tail);
      for (const at of positions) hash.update(`|${at}`);
      return digest();
    },
  };
}
