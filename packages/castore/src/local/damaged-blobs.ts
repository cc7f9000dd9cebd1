import type { Digest } from "../model/digest.ts";

/** Most that are remembered; what is forgotten is found again where it is read again. */
const DAMAGED_MAX = 10_000;

/** The blobs that this process knows to be damaged. */
export class DamagedBlobs {
  readonly #digests = new Set<Digest>();

  has(digest: Digest): boolean {
    return this.#digests.has(digest);
  }

  add(digest: Digest): void {
    if (this.#digests.size < DAMAGED_MAX) this.#digests.add(digest);
  }

  /** It was written anew. */
  delete(digest: Digest): void {
    this.#digests.delete(digest);
  }
}
