import { createReadStream } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { createInterface } from "node:readline";
import { CastoreError, digestOf } from "@castore/castore";
import { DEDUP_CUTS } from "./dedup-cut.ts";
import type { PathMeasure } from "./dedup-measure.ts";
import type { PartTable } from "./dedup-part-table.ts";

/** A measured path, with what it took on the wire. */
export interface MeasuredNar extends PathMeasure {
  readonly servedBytes: number;
}

/** The paths that were measured, which survive the process where they are kept in a file. */
export interface DedupState extends AsyncDisposable {
  get(key: string): MeasuredNar | undefined;
  /** Resolves once a process that comes after this one will find it. */
  put(key: string, measured: MeasuredNar): Promise<void>;
}

export interface DedupStateOptions {
  /** Takes the parts of what the file holds. */
  readonly table: PartTable;
  readonly zstdLevels: readonly number[];
  /** Without one, nothing survives. One process at a time may use it. */
  readonly file?: string | undefined;
}

/**
 * Reads what the file holds, if it is there. A line of it that is not whole, as a killed process
 * leaves it, does not count. Rejects INVALID where the file is something else, or was written for
 * other levels or cuts.
 */
export async function openDedupState(options: DedupStateOptions): Promise<DedupState> {
  const { file, table } = options;
  const measured = new Map<string, MeasuredNar>();
  if (file === undefined) {
    return {
      get: (key) => measured.get(key),
      put: async (key, path) => void measured.set(key, path),
      async [Symbol.asyncDispose]() {},
    };
  }
  const handle = await open(file, "a+").catch((cause: unknown) => {
    throw new CastoreError("INVALID", `${file}: cannot be opened: ${String(cause)}`, { cause });
  });
  try {
    const settings = settingsOf(options);
    const isEmpty = (await handle.stat()).size === 0;
    if (!isEmpty) await readState(file, settings, (path) => measured.set(...decode(path, table)));
    // What a killed process left without an end must not swallow the next line.
    await append(handle, isEmpty ? seal(settings) : "\n");
  } catch (error) {
    await handle.close();
    throw error;
  }
  return {
    get: (key) => measured.get(key),
    async put(key, path) {
      await append(handle, seal(encode(key, path, table)));
      measured.set(key, path);
    },
    [Symbol.asyncDispose]: () => handle.close(),
  };
}

function settingsOf({ zstdLevels }: DedupStateOptions): string {
  const cuts = DEDUP_CUTS.map(({ id, sizes }) => (sizes ? [id, sizes.average] : [id]));
  return JSON.stringify({ castoreBenchDedup: 1, zstdLevels, cuts });
}

/** A line that tells whether it is whole. */
function seal(json: string): string {
  return `${digestOf(Buffer.from(json)).slice(0, 16)} ${json}\n`;
}

/** What `seal` was given; undefined where the line is not whole. */
function unseal(line: string): string | undefined {
  const json = line.slice(17);
  return line === seal(json).slice(0, -1) ? json : undefined;
}

async function append(handle: FileHandle, text: string): Promise<void> {
  await handle.appendFile(text).catch((cause: unknown) => {
    throw new CastoreError("EXHAUSTED", `state file: cannot be written: ${String(cause)}`, {
      cause,
    });
  });
}

async function readState(
  file: string,
  settings: string,
  onPath: (path: StoredPath) => void,
): Promise<void> {
  const lines = createInterface({ input: createReadStream(file), crlfDelay: Infinity });
  let isFirst = true;
  for await (const line of lines) {
    const json = unseal(line);
    if (isFirst) {
      if (json === undefined || !json.startsWith('{"castoreBenchDedup":')) {
        throw new CastoreError("INVALID", `${file}: is not a state of castore bench dedup`);
      }
      if (json !== settings) {
        const what = `${json}, not of ${settings}`;
        throw new CastoreError("INVALID", `${file}: is of a run with other settings: ${what}`);
      }
      isFirst = false;
    } else if (json !== undefined) {
      // It is as `encode` wrote it: the seal says so.
      onPath(JSON.parse(json) as StoredPath);
    }
  }
}

type StoredPath = Omit<MeasuredNar, "parts" | "masks"> & {
  readonly key: string;
  /** Records of `recordBytes`, in base64. */
  readonly parts: string;
};

/** Key, mask, size, and what it takes at each level. */
function recordBytes(levelCount: number): number {
  return 8 + 1 + 6 * (1 + levelCount);
}

function encode(key: string, measured: MeasuredNar, table: PartTable): string {
  const bytes = Buffer.allocUnsafe(measured.parts.length * recordBytes(table.levelCount));
  let at = 0;
  for (const [i, part] of measured.parts.entries()) {
    at = bytes.writeBigUInt64LE(table.keyOf(part), at);
    at = bytes.writeUInt8(measured.masks[i] ?? 0, at);
    at = bytes.writeUIntLE(table.sizeOf(part), at, 6);
    for (const size of table.packedSizesOf(part)) at = bytes.writeUIntLE(size, at, 6);
  }
  const { masks: _masks, ...rest } = measured;
  return JSON.stringify({ key, ...rest, parts: bytes.toString("base64") });
}

function decode(stored: StoredPath, table: PartTable): [string, MeasuredNar] {
  const { key, parts: text, ...rest } = stored;
  const bytes = Buffer.from(text, "base64");
  const record = recordBytes(table.levelCount);
  const parts = new Uint32Array(bytes.length / record);
  const masks = new Uint8Array(parts.length);
  for (let i = 0, at = 0; i < parts.length; i++, at += record) {
    const partKey = bytes.readBigUInt64LE(at);
    const part = table.find(partKey) ?? table.add(partKey, bytes.readUIntLE(at + 9, 6));
    for (let level = 0; level < table.levelCount; level++) {
      table.packedSizesOf(part)[level] = bytes.readUIntLE(at + 15 + 6 * level, 6);
    }
    parts[i] = part;
    masks[i] = bytes.readUInt8(at + 8);
  }
  return [key, { ...rest, parts, masks }];
}
