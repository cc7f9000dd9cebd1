/** What a common data file of ICU begins with: two bytes of its header's length, then these. */
const MAGIC = Buffer.from([0xda, 0x27]);
const FORMAT = Buffer.from("CmnD");
/** Of the format behind the magic: sizes, byte order, character set, then the format's name. */
const FORMAT_OFFSET = 10;
const ENTRY_BYTES = 8;
/** No release has had so many. */
const ITEMS_MAX = 100_000;

/** What is needed in any language, and what English needs: the rest falls back to it. */
const NEEDED = /^[^/]+\/(([a-z]+\/)?(root|pool|res_index|en(_001|_US)?)\.res|.*\.(icu|brk))$/;
/** Files beside the languages: of one, or of none. */
const LANGUAGE = /^[^/]+\/[a-z]{2,3}(_\w+)?\.res$/;

/**
 * Empties what a runtime brings along for other languages than English, and for encodings of other
 * ages: the greater part of 33 MB. Nothing moves: a program in which the data lie stays as it was.
 * The data's own list no longer names what is gone. `bytes` without such data are left alone.
 */
export function stripIcuData(bytes: Buffer): void {
  for (let at = 0; ; at += FORMAT.length) {
    at = bytes.indexOf(FORMAT, at);
    if (at < 0) return;
    const header = at - FORMAT_OFFSET - MAGIC.length;
    if (header >= 0 && bytes.subarray(header + 2, header + 4).equals(MAGIC)) {
      stripItems(bytes, header + bytes.readUInt16LE(header));
    }
  }
}

/** `base` is where the list lies: a count, then for each item where its name and its data begin. */
function stripItems(bytes: Buffer, base: number): void {
  const count = bytes.readUInt32LE(base);
  if (count > ITEMS_MAX) return;
  const entries = Array.from({ length: count }, (_, index) => base + 4 + index * ENTRY_BYTES);
  const items = entries.map((at) => {
    const name = base + bytes.readUInt32LE(at);
    const entry = Buffer.from(bytes.subarray(at, at + ENTRY_BYTES));
    const text = bytes.toString("latin1", name, bytes.indexOf(0, name));
    return { entry, text, data: base + bytes.readUInt32LE(at + 4) };
  });
  // The end of the last one is not told: it stays.
  const kept = items.filter(({ text }, index) => index === count - 1 || isNeeded(text));
  for (const [index, { text, data }] of items.entries()) {
    const end = items[index + 1]?.data;
    if (end !== undefined && !isNeeded(text)) bytes.fill(0, data, end);
  }
  bytes.writeUInt32LE(kept.length, base);
  bytes.fill(0, base + 4, base + 4 + count * ENTRY_BYTES);
  for (const [index, { entry }] of kept.entries())
    entry.copy(bytes, base + 4 + index * ENTRY_BYTES);
}

function isNeeded(name: string): boolean {
  if (NEEDED.test(name)) return true;
  const isBeside = name.split("/").length === 2;
  return isBeside && !LANGUAGE.test(name) && !name.endsWith(".cnv");
}
