import type { Node } from "@castore/castore";
import { createNarLayout, type NarLayout, type NarServices } from "../nar/nar-layout.ts";
import type { ServedNar } from "../substitution/served-nar.ts";
import { HotBytes } from "./hot-bytes.ts";

/** What is rendered and shared at once. */
const PIECE_BYTES = 1 << 19;
/** Of pieces, because several clients want the same at about the same time. */
const PIECES_BYTES_MAX = 64 << 20;
/** Of layouts, which hold a few times their literal bytes. */
const LAYOUT_BYTES_MAX = 32 << 20;

/**
 * NARs by their root node. Clients that ask for the same NAR at about the same time share its
 * layout and what was rendered of it: of 5,000 small files each client alone would cost a second
 * of CPU for a hundred MB.
 */
export class SharedNars {
  readonly #services: NarServices;
  readonly #layouts = new HotBytes<NarLayout>(({ literalBytes }) => literalBytes, LAYOUT_BYTES_MAX);
  readonly #pieces = new HotBytes<Uint8Array>(({ byteLength }) => byteLength, PIECES_BYTES_MAX);

  constructor(services: NarServices) {
    this.#services = services;
  }

  /** Rejects as createNarLayout does. */
  async open(node: Node): Promise<ServedNar> {
    const name = node.type === "symlink" ? node.target : node.digest;
    const etag = Buffer.from(name).toString("base64url");
    const isExecutable = node.type === "file" && node.executable;
    const key = `${node.type} ${isExecutable} ${etag}`;
    const layout = await this.#layouts.get(key, () => createNarLayout(node, this.#services));
    const stream = (start: number, end: number) => this.#stream(key, layout, start, end);
    return { size: layout.size, etag, stream };
  }

  async *#stream(
    key: string,
    layout: NarLayout,
    start: number,
    end: number,
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const pieceAt = (index: number) =>
      this.#pieces.get(`${key} ${index}`, () => renderPiece(layout, index));
    let index = Math.floor(start / PIECE_BYTES);
    let next = start < end ? pieceAt(index) : undefined;
    while (next !== undefined) {
      const from = index * PIECE_BYTES;
      const piece = await next;
      index++;
      next = index * PIECE_BYTES < end ? pieceAt(index) : undefined;
      // Made ahead; a failure shows when its turn comes, or not at all where nobody asks.
      next?.catch(() => {});
      yield piece.subarray(Math.max(0, start - from), end - from);
    }
  }
}

async function renderPiece(layout: NarLayout, index: number): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  const start = index * PIECE_BYTES;
  for await (const piece of layout.stream(start, start + PIECE_BYTES)) pieces.push(piece);
  const [first] = pieces;
  return pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces);
}
