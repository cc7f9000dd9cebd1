import type { DirectContent, DirectContentModule } from "@castore/castore";
import type { InodeTable } from "./inode-table.ts";

/** Bytes [start, end) of file `id`. */
export interface ContentRange {
  readonly id: number;
  readonly start: number;
  readonly end: number;
}

/** File contents that can be read at once. */
export interface ContentSource {
  /** Puts the range into `target` at `at`; false where it is not at hand in full. */
  read(range: ContentRange, target: Buffer, at: number): boolean;
  /** A descriptor of a plain file with the content of file `id`, good until the next call. */
  descriptor(id: number): number | undefined;
  close(): void;
}

/** The files of a table whose blobs are in `content`, opened in this thread. */
export async function openContents(
  table: InodeTable,
  content: DirectContentModule | undefined,
): Promise<ContentSource> {
  if (content === undefined) return NO_CONTENT;
  const { openDirectContent } = await import(content.module);
  return createContentSource(table, openDirectContent(content.argument));
}

/** The files of a table whose blobs are in `content`. */
export function createContentSource(table: InodeTable, content: DirectContent): ContentSource {
  const digest = Buffer.alloc(32);
  return {
    read({ id, start, end }, target, at) {
      table.copyDigest(id, digest);
      return content.read(digest, { start, end, at }, target);
    },
    descriptor(id) {
      table.copyDigest(id, digest);
      return content.descriptor(digest);
    },
    close: () => content.close(),
  };
}

/** Nothing is at hand. */
export const NO_CONTENT: ContentSource = {
  read: () => false,
  descriptor: () => undefined,
  close() {},
};
