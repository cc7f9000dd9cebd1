import { isCastoreError } from "@castore/castore";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NETRC_LENGTH_MAX, netrcEntryFor, parseNetrc } from "../src/nix/netrc.ts";

const FILE = `# a comment
machine cache.example.com
  login alice
  password "two words \\"quoted\\" \\\\ \\t \\q"
MACHINE Other.example.com LOGIN bob account x PASSWORD p#1 # another comment
machine other.example.com login carol password p2
macdef init
machine not.example.com login x password y

machine bare.example.com default login anyone password p3
machine late.example.com login late password p4
`;

describe("parseNetrc()", () => {
  const entries = parseNetrc(FILE);

  it("reads machines, quoted words, comments and macros as curl does", () => {
    expect(entries).toEqual([
      { machine: "cache.example.com", login: "alice", password: 'two words "quoted" \\ \t q' },
      { machine: "Other.example.com", login: "bob", password: "p#1" },
      { machine: "other.example.com", login: "carol", password: "p2" },
      { machine: "bare.example.com", login: "", password: "" },
      { machine: undefined, login: "anyone", password: "p3" },
      { machine: "late.example.com", login: "late", password: "p4" },
    ]);
    expect(parseNetrc(FILE.replaceAll("\n", "\r\n"))).toEqual(entries);
  });

  it.each([
    ["machine", "netrc line 1: machine without a value"],
    ["machine a\nlogin b password", "netrc line 2: password without a value"],
    ['machine a\nlogin b\npassword "secret', "netrc line 3: a quote is not closed"],
    ['machine a login b password "sec\nret"', "netrc line 1: a quote is not closed"],
  ])("refuses %j without telling what stands in it", (text, message) => {
    expect(() => parseNetrc(text)).toThrowError(
      expect.objectContaining({ code: "INVALID", message }),
    );
  });

  it("passes over a login before any machine, unknown words and an open macro", () => {
    expect(parseNetrc("login a password b what\nmachine c\nmacdef x\nmachine d")).toEqual([
      { machine: "c", login: "", password: "" },
    ]);
  });

  it("refuses a text over the limit", () => {
    expect(parseNetrc("#".repeat(NETRC_LENGTH_MAX))).toEqual([]);
    expect(() => parseNetrc("#".repeat(NETRC_LENGTH_MAX + 1))).toThrowError(
      expect.objectContaining({ code: "EXHAUSTED" }),
    );
  });

  it("gives back any words that stand quoted in it, and fails only with INVALID", () => {
    const quote = (word: string) => `"${word.replace(/["\\]/g, "\\$&").replace(/\n/g, "\\n")}"`;
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.string(), (password, rest) => {
        const text = `machine a login b password ${quote(password)}\n`;
        expect(parseNetrc(text)[0]?.password).toBe(password);
        try {
          parseNetrc(text + rest);
        } catch (error) {
          if (!isCastoreError(error, "INVALID")) throw error;
        }
      }),
    );
  });
});

describe("netrcEntryFor()", () => {
  const entries = parseNetrc(FILE);

  it("finds the first entry for a host in any case, and default for every other", () => {
    expect(netrcEntryFor(entries, "OTHER.example.COM")?.login).toBe("bob");
    expect(netrcEntryFor(entries, "unknown.example.com")?.login).toBe("anyone");
    expect(netrcEntryFor(entries, "late.example.com")?.login).toBe("anyone");
    expect(netrcEntryFor(entries, "not.example.com")?.login).toBe("anyone");
  });

  it("finds the entry for a login that is asked for, or none", () => {
    expect(netrcEntryFor(entries, "other.example.com", "carol")?.password).toBe("p2");
    expect(netrcEntryFor(entries, "other.example.com", "dora")).toBeUndefined();
    expect(netrcEntryFor([], "other.example.com")).toBeUndefined();
  });
});
