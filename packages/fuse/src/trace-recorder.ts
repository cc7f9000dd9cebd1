import { createWriteStream, type WriteStream } from "node:fs";
import { finished } from "node:stream/promises";
import type { PathComponent } from "@castore/castore";
import type { InodeWriter } from "./inode-writer.ts";
import { ROOT_ID } from "./protocol.ts";
import { formatTouch } from "./trace.ts";

/** Appends what is touched to a file, in order, each piece once. */
export class TraceRecorder {
  readonly #table: InodeWriter;
  readonly #stream: WriteStream;
  readonly #finished: Promise<void>;

  /** A file that cannot be written is told to `log`, once; the mount goes on. */
  constructor(path: string, table: InodeWriter, log: (message: string) => void) {
    this.#table = table;
    this.#stream = createWriteStream(path, { flags: "a" });
    this.#finished = finished(this.#stream).catch((error: unknown) => {
      log(`trace ${path}: ${String(error)}`);
    });
  }

  touch({ id, start, end }: { id: number; start: number; end: number }): void {
    const path: PathComponent[] = [];
    for (let at = id; at > ROOT_ID; at = this.#table.parentOf(at)) {
      path.unshift(this.#table.componentOf(at));
    }
    if (this.#stream.writable) this.#stream.write(`${formatTouch({ path, start, end })}\n`);
  }

  /** Resolves once everything is in the file. */
  async close(): Promise<void> {
    this.#stream.end();
    await this.#finished;
  }
}
