import type { ChunkSizes } from "@castore/castore";

/** How the files of a store path are cut into the parts that are stored and sent once each. */
export interface DedupCut {
  readonly id: string;
  readonly title: string;
  /** Of the files as they are, or of their normal form. */
  readonly isNormal: boolean;
  /** undefined: each file is one part. */
  readonly sizes: ChunkSizes | undefined;
}

/** FastCDC as castore/1 uses it, for another average. */
function sizesAround(average: number): ChunkSizes {
  return { min: average / 2, average, max: average * 2 };
}

const GRANULARITIES = [
  { id: "files", title: "whole files", sizes: undefined },
  { id: "chunks256k", title: "chunks, 256 KiB", sizes: sizesAround(256 << 10) },
  { id: "chunks64k", title: "chunks, 64 KiB", sizes: sizesAround(64 << 10) },
  { id: "chunks16k", title: "chunks, 16 KiB", sizes: sizesAround(16 << 10) },
];

/** Every cut that is measured; a part's mask has bit `i` where it is one of cut `i`. */
export const DEDUP_CUTS: readonly DedupCut[] = [
  ...GRANULARITIES.map((cut) => ({ ...cut, isNormal: false })),
  ...GRANULARITIES.map(({ id, title, sizes }) => ({
    id: `${id}-normal`,
    title: `${title}, normalised`,
    isNormal: true,
    sizes,
  })),
];

/** The cut of castore/1. */
export const CASTORE_CUT_ID = "chunks256k-normal";
