import { createHash } from "node:crypto";
import { CastoreError, type TreeVisitor } from "@castore/castore";
import { narHashOf } from "../nix/nix-hash.ts";
import { type LiteralSink, NarLiterals } from "./nar-literals.ts";
import type { NarIdentity } from "./nar-render.ts";
import { NAR_DEPTH_MAX, paddedLength } from "./nar-token.ts";
import type { RunningSha256 } from "./threaded-sha256.ts";

/** Names the NAR of the tree that it visits. Throws EXHAUSTED above NAR_DEPTH_MAX. */
export interface NarHasher extends TreeVisitor {
  /** The NAR's name, once the tree was visited whole. Call it once. */
  finish(): NarIdentity;
}

/** `hash` is fresh. */
export function createNarHasher(hash: RunningSha256 = createHash("sha256")): NarHasher {
  const sink = new HashedLiterals(hash);
  const literals = new NarLiterals(sink);
  let size = 0;
  return {
    openDirectory(name) {
      literals.openDirectory(name);
      if (literals.depth <= NAR_DEPTH_MAX) return;
      const message = `more than ${NAR_DEPTH_MAX} directories within each other`;
      throw new CastoreError("EXHAUSTED", `NAR: ${message}`);
    },
    closeDirectory: () => literals.closeDirectory(),
    openFile(name, file) {
      literals.openFile(name, file);
      size = file.size;
    },
    contents: (bytes) => sink.add(bytes),
    closeFile: () => literals.closeFile(size),
    symlink: (name, target) => literals.symlink(name, target),
    finish: () => sink.finish(),
  };
}

const GATHERED_BYTES = 1 << 16;
/** Contents from this size on are hashed as they are. */
const COPIED_BYTES_MAX = 1 << 12;

/** Hashes what it gathers: 200,000 tokens one by one take ten times as long. */
class HashedLiterals implements LiteralSink {
  readonly #hash: RunningSha256;
  readonly #gathered = Buffer.alloc(GATHERED_BYTES);
  #filled = 0;
  #size = 0;

  constructor(hash: RunningSha256) {
    this.#hash = hash;
  }

  add(bytes: Uint8Array): void {
    if (bytes.byteLength > COPIED_BYTES_MAX) {
      this.#flush();
      this.#hash.update(bytes);
      this.#size += bytes.byteLength;
      return;
    }
    this.#gathered.set(bytes, this.#reserve(bytes.byteLength));
  }

  length(length: number): void {
    const at = this.#reserve(8);
    this.#gathered.writeUInt32LE(length % 2 ** 32, at);
    this.#gathered.writeUInt32LE(Math.floor(length / 2 ** 32), at + 4);
  }

  /** Names and targets are at most 4 KiB. */
  string(string: string): void {
    this.length(string.length);
    const length = paddedLength(string.length);
    const at = this.#reserve(length);
    this.#gathered.fill(0, at, at + length);
    this.#gathered.write(string, at, "latin1");
  }

  zeros(count: number): void {
    const at = this.#reserve(count);
    this.#gathered.fill(0, at, at + count);
  }

  finish(): NarIdentity {
    this.#flush();
    return { narHash: narHashOf(this.#hash.digest()), narSize: this.#size };
  }

  /** Where `count` bytes, of which there are few, are to be written. */
  #reserve(count: number): number {
    if (this.#filled + count > GATHERED_BYTES) this.#flush();
    const at = this.#filled;
    this.#filled += count;
    this.#size += count;
    return at;
  }

  #flush(): void {
    this.#hash.update(this.#gathered.subarray(0, this.#filled));
    this.#filled = 0;
  }
}
