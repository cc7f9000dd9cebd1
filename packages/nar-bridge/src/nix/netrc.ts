import { CastoreError } from "@castore/castore";

/** What a netrc says for one machine. */
export interface NetrcEntry {
  /** Undefined for `default`, which stands for every machine. */
  readonly machine: string | undefined;
  readonly login: string;
  readonly password: string;
}

/** Most characters of a netrc: curl's limit. */
export const NETRC_LENGTH_MAX = 1 << 17;

const ESCAPES: { readonly [letter: string]: string } = { n: "\n", r: "\r", t: "\t" };

/**
 * Parses a netrc as curl reads it: words between white space; `"quoted words"` with the escapes
 * \n, \r, \t, and \ before any other character for itself; a word beginning with # is a comment to
 * the end of its line; a `macdef` goes on to the next empty line; keywords in any case. Rejects
 * INVALID, naming the line, for a quote that is not closed and a keyword without its value; no
 * message holds a word of the file. Rejects EXHAUSTED over NETRC_LENGTH_MAX.
 */
export function parseNetrc(text: string): readonly NetrcEntry[] {
  if (text.length > NETRC_LENGTH_MAX) {
    throw new CastoreError(
      "EXHAUSTED",
      `netrc of ${text.length} characters: the limit is ${NETRC_LENGTH_MAX}`,
    );
  }
  const entries: { machine: string | undefined; login: string; password: string }[] = [];
  const words = new Words(text);
  for (let word = words.next(); word !== undefined; word = words.next()) {
    const entry = entries.at(-1);
    const keyword = word.toLowerCase();
    if (keyword === "machine") {
      entries.push({ machine: words.value(keyword), login: "", password: "" });
    } else if (keyword === "default") {
      entries.push({ machine: undefined, login: "", password: "" });
    } else if (keyword === "macdef") {
      words.skipMacro();
    } else if (keyword === "login" || keyword === "password") {
      const value = words.value(keyword);
      if (entry !== undefined) entry[keyword] = value;
    } else if (keyword === "account") {
      words.value(keyword);
    }
  }
  return entries;
}

/**
 * The entry for `host`, in any case: the first that names it or is `default`. With `login`, the
 * first such entry for that login.
 */
export function netrcEntryFor(
  entries: readonly NetrcEntry[],
  host: string,
  login?: string,
): NetrcEntry | undefined {
  const wanted = host.toLowerCase();
  return entries.find(
    (entry) =>
      (entry.machine === undefined || entry.machine.toLowerCase() === wanted) &&
      (login === undefined || entry.login === login),
  );
}

class Words {
  readonly #text: string;
  #position = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** The next word, without its quotes; undefined at the end. */
  next(): string | undefined {
    for (;;) {
      this.#take(/\s*/y);
      if (this.#position === this.#text.length) return undefined;
      if (this.#text[this.#position] === '"') return this.#quoted();
      const word = this.#take(/\S+/y);
      if (!word.startsWith("#")) return word;
      this.#take(/.*/y);
    }
  }

  /** The word after `keyword`. */
  value(keyword: string): string {
    return this.next() ?? this.#fail(`${keyword} without a value`);
  }

  /** Skips to the next empty line. */
  skipMacro(): void {
    const rest = /\n[ \t]*\r?\n/g;
    rest.lastIndex = this.#position;
    const end = rest.exec(this.#text);
    this.#position = end === null ? this.#text.length : end.index + end[0].length;
  }

  #quoted(): string {
    const quoted = this.#take(/"(?:[^"\\\n]|\\[^\n])*"/y);
    if (quoted === "") this.#fail("a quote is not closed");
    return quoted.slice(1, -1).replace(/\\(.)/g, (_, letter: string) => ESCAPES[letter] ?? letter);
  }

  #take(pattern: RegExp): string {
    pattern.lastIndex = this.#position;
    const taken = pattern.exec(this.#text)?.[0] ?? "";
    this.#position += taken.length;
    return taken;
  }

  #fail(fault: string): never {
    const line = this.#text.slice(0, this.#position).split("\n").length;
    throw new CastoreError("INVALID", `netrc line ${line}: ${fault}`);
  }
}
