import { CastoreError } from "../castore-error.ts";
import { WIRE_BYTES, WIRE_VARINT, WireReader } from "../model/wire-reader.ts";
import { fieldLength, WireWriter } from "../model/wire-writer.ts";
import { checkReference, REFERENCE_LENGTH } from "../recipes/normal-form.ts";

/** Most store hashes that one request asks for. */
export const CLOSURE_REQUEST_WANTED_MAX = 256;
/** Most store hashes that one request names as known. */
export const CLOSURE_REQUEST_KNOWN_MAX = 4_096;

/** Asks for paths with their directories and recipes. Store hashes are 32 nixbase32 characters. */
export interface ClosureRequest {
  /** In the order in which they are to be answered; distinct, at least one. */
  readonly wanted: readonly string[];
  /** Whether the paths that these refer to are wanted too, transitively. */
  readonly follow: boolean;
  /** What the client has: neither sent nor followed. Ascending. */
  readonly known: readonly string[];
  /** Whether a summary will do for paths whose directories and recipe are large. */
  readonly summaries: boolean;
}

/** The canonical encoding (docs/protocol.md, Messages). `request` is valid. */
export function encodeClosureRequest(request: ClosureRequest): Buffer {
  const { follow, summaries } = request;
  const [wantedText, knownText] = [request.wanted.join(""), request.known.join("")];
  const flags = (follow ? 2 : 0) + (summaries ? 2 : 0);
  const size = fieldLength(wantedText.length) + fieldLength(knownText.length) + flags;
  const writer = new WireWriter(size);
  writer.byte(0x0a);
  writer.latin1(wantedText);
  if (follow) {
    writer.byte(0x10);
    writer.byte(1);
  }
  if (knownText !== "") {
    writer.byte(0x1a);
    writer.latin1(knownText);
  }
  if (summaries) {
    writer.byte(0x20);
    writer.byte(1);
  }
  return writer.buffer;
}

/**
 * Decodes a request. Rejects INVALID unless `bytes` is the canonical encoding of a valid one,
 * EXHAUSTED over a limit.
 */
export function decodeClosureRequest(bytes: Uint8Array): ClosureRequest {
  const reader = new WireReader(bytes, "closure request");
  if (!reader.takeTag(1, WIRE_BYTES)) reader.fail("no store hashes");
  const wanted = readHashes(reader, CLOSURE_REQUEST_WANTED_MAX);
  if (new Set(wanted).size !== wanted.length) reader.fail("a store hash is wanted twice");
  const follow = readFlag(reader, 2);
  const known = reader.takeTag(3, WIRE_BYTES) ? readHashes(reader, CLOSURE_REQUEST_KNOWN_MAX) : [];
  if (known.some((hash, i) => i > 0 && hash <= (known[i - 1] ?? ""))) {
    reader.fail("known store hashes do not ascend");
  }
  const summaries = readFlag(reader, 4);
  if (!reader.done) reader.fail("field is unknown, repeated or out of order");
  return { wanted, follow, known, summaries };
}

function readFlag(reader: WireReader, field: number): boolean {
  const isSet = reader.takeTag(field, WIRE_VARINT);
  if (isSet && reader.varint() !== 1) reader.fail("a bool is 1 or left out");
  return isSet;
}

function readHashes(reader: WireReader, countMax: number): string[] {
  const bytes = reader.bytes();
  if (bytes.byteLength === 0) reader.fail("default value is written out");
  if (bytes.byteLength > countMax * REFERENCE_LENGTH) {
    throw new CastoreError("EXHAUSTED", `closure request: over ${countMax} store hashes`);
  }
  const text = Buffer.from(bytes).toString("latin1");
  const hashes: string[] = [];
  for (let at = 0; at < text.length; at += REFERENCE_LENGTH) {
    const hash = text.slice(at, at + REFERENCE_LENGTH);
    checkReference(hash);
    hashes.push(hash);
  }
  return hashes;
}
