import fc from "fast-check";

/** Runs of one property; CASTORE_FUZZ_RUNS makes a long run of it. */
export const FUZZ_RUNS = Number(process.env.CASTORE_FUZZ_RUNS ?? 300);

/** Bytes with up to three faults: a bit flipped, a part cut out, doubled, or put in. */
export function mutated(valid: fc.Arbitrary<Uint8Array>): fc.Arbitrary<Buffer> {
  const fault = fc.record({
    kind: fc.constantFrom("flip", "set", "cut", "double", "insert", "end"),
    at: fc.nat(),
    length: fc.nat({ max: 40 }),
    byte: fc.nat({ max: 255 }),
  });
  return fc.tuple(valid, fc.array(fault, { maxLength: 3 })).map(([bytes, faults]) => {
    let result = Buffer.from(bytes);
    for (const { kind, at, length, byte } of faults) {
      const start = at % (result.length + 1);
      const [head, tail] = [result.subarray(0, start), result.subarray(start)];
      const part = tail.subarray(0, length);
      if (kind === "end") result = Buffer.from(head);
      if (kind === "cut") result = Buffer.concat([head, tail.subarray(length)]);
      if (kind === "double") result = Buffer.concat([head, part, tail]);
      if (kind === "insert") result = Buffer.concat([head, Buffer.of(byte), tail]);
      if (kind === "set" && tail.length > 0) tail[0] = byte;
      if (kind === "flip" && tail.length > 0) tail[0] = (tail[0] ?? 0) ^ (1 << (byte & 7));
    }
    return result;
  });
}
