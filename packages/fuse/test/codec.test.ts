import { pathComponentOfText } from "@castore/castore";
import { describe, expect, it } from "vitest";
import { encodeInvalidEntry, encodeInvalidInode, encodeResend } from "../src/notifier.ts";
import { OPCODE } from "../src/protocol.ts";
import { Reply } from "../src/reply.ts";
import { Request } from "../src/request.ts";

const hex = (text: string): Buffer => Buffer.from(text.replace(/\s/g, ""), "hex");

/** Header of a request: length, opcode, unique, node, uid 1000, gid 100, pid 4711. */
function request(opcode: string, node: string, body: string): Request {
  const rest = hex(body);
  const length = Buffer.alloc(4);
  length.writeUInt32LE(40 + rest.length);
  const header = hex(
    `${opcode}000000 0600000000000080 ${node} e8030000 64000000 67120000 00000000`,
  );
  const decoded = new Request();
  expect(decoded.load(Buffer.concat([length, header, rest]))).toBe(true);
  return decoded;
}

function replied(write: (reply: Reply) => number): string {
  const reply = new Reply();
  reply.begin(6, 0x8000_0000);
  return reply.buffer.subarray(0, write(reply)).toString("hex");
}

/** An answer's header: length and no error, to request 0x8000000000000006. */
const header = (length: string): string => `${length}00000000 0600000000000080`.replace(/\s/g, "");
const zeros = (bytes: number): string => "00".repeat(bytes);

describe("requests", () => {
  it("LOOKUP carries a node, a number of 64 bits and a name of any bytes", () => {
    const lookup = request("01", "2a00000000000000", "ff62696e00");
    expect(lookup.opcode).toBe(OPCODE.LOOKUP);
    expect([lookup.uniqueLow, lookup.uniqueHigh]).toEqual([6, 0x8000_0000]);
    expect(lookup.nodeId).toBe(42);
    expect(lookup.pid).toBe(4711);
    expect(lookup.name).toBe("\xffbin");
    expect(lookup.nameLength).toBe(4);
  });

  it("READ carries an offset beyond 4 GiB and a size", () => {
    const read = request(
      "0f",
      "2a00000000000000",
      "0000000000000000 0010000003000000 00000200 00000000 0000000000000000 00000000 00000000",
    );
    expect(read.opcode).toBe(OPCODE.READ);
    expect(read.readOffset).toBe(3 * 2 ** 32 + 4096);
    expect(read.readSize).toBe(131_072);
  });

  it("INIT carries the version, read-ahead and two words of flags", () => {
    const init = request(
      "1a",
      zeros(8),
      `07000000 29000000 00000200 fbffff73 a0000000 ${zeros(44)}`,
    );
    expect([init.initMajor, init.initMinor, init.initReadAhead]).toEqual([7, 41, 131_072]);
    expect(init.initFlags).toBe(0x73fffffb);
    expect(init.initFlags2).toBe(0xa0);
  });

  it("INIT of a kernel that knows no second word of flags has none", () => {
    expect(request("1a", zeros(8), "07000000 1f000000 00000200 fbffff03").initFlags2).toBe(0);
  });

  it("GETXATTR carries a size and a name", () => {
    const xattr = request("16", "0200000000000000", "40000000 00000000 757365722e7800");
    expect(xattr.xattrSize).toBe(64);
    expect(xattr.xattrName).toBe("user.x");
  });

  it("INTERRUPT carries the number of the request that is to end", () => {
    const interrupt = request("24", zeros(8), "0800000000000080");
    expect([interrupt.interruptedLow, interrupt.interruptedHigh]).toEqual([8, 0x8000_0000]);
  });

  it("a node id that was never given out reads as none", () => {
    expect(request("03", "0100000001000000", zeros(16)).nodeId).toBe(0);
  });

  it("a request that is not as long as it says is none", () => {
    const decoded = new Request();
    expect(decoded.load(hex("2900000001000000"))).toBe(false);
    expect(decoded.load(hex(`30000000 01000000 ${zeros(36)}`))).toBe(false);
  });
});

describe("answers", () => {
  const attributes = { ino: 42, size: 1_044_480, mode: 0o100555, uid: 1000, gid: 100 };
  const attr =
    "2a00000000000000 00f00f0000000000 f807000000000000" + // ino, size, blocks
    `${zeros(8)} 0100000000000000 ${zeros(8)} ${zeros(12)}` + // mtime is 1
    "6d810000 01000000 e8030000 64000000 00000000 00100000 00000000";
  const attrHex = attr.replace(/\s/g, "");

  it("an error is a header alone", () => {
    expect(replied((reply) => reply.fail(2))).toBe("10000000feffffff0600000000000080");
  });

  it("LOOKUP gets an entry whose validity is given in seconds", () => {
    const answer = replied((reply) => {
      reply.entry(1, attributes);
      return reply.end();
    });
    const entry = `2a00000000000000 ${zeros(8)} 0100000000000000 0100000000000000 ${zeros(8)}`;
    expect(answer).toBe(header("90000000") + entry.replace(/\s/g, "") + attrHex);
  });

  it("LOOKUP of an absent name gets node 0, to be remembered", () => {
    const answer = replied((reply) => {
      reply.absent(0xffff_ffff);
      return reply.end();
    });
    expect(answer).toBe(`${header("90000000")}${zeros(16)}ffffffff${zeros(108)}`);
  });

  it("GETATTR gets attributes", () => {
    const answer = replied((reply) => {
      reply.attributes(1, attributes);
      return reply.end();
    });
    expect(answer).toBe(`${header("78000000")}0100000000000000${zeros(8)}${attrHex}`);
  });

  it("READDIR gets entries padded to 8 bytes, as many as fit", () => {
    const answer = replied((reply) => {
      const name = { names: Buffer.from("xlib64x"), start: 1, length: 5 };
      expect(reply.dirent(attributes, name, { next: 3, limit: 32 })).toBe(true);
      expect(reply.dirent(attributes, name, { next: 4, limit: 63 })).toBe(false);
      return reply.end();
    });
    const entry = "2a00000000000000 0300000000000000 05000000 08000000 6c69623634000000";
    expect(answer).toBe(header("30000000") + entry.replace(/\s/g, ""));
  });

  it("READDIRPLUS gets an entry and its name, or neither", () => {
    const answer = replied((reply) => {
      const name = { names: Buffer.from("lib"), start: 0, length: 3 };
      expect(reply.direntPlus(1, attributes, name, { next: 3, limit: 160 })).toBe(true);
      expect(reply.direntPlus(1, attributes, name, { next: 4, limit: 319 })).toBe(false);
      return reply.end();
    });
    expect(answer.length / 2).toBe(16 + 160);
    expect(answer.slice(2 * (16 + 40), 2 * (16 + 128))).toBe(attrHex);
    expect(answer.endsWith("03000000080000006c69620000000000")).toBe(true);
  });

  it("STATFS tells of a file system that is full", () => {
    const answer = replied((reply) => {
      reply.statfs(8192, 7);
      return reply.end();
    });
    const blocks = `0200000000000000 ${zeros(16)} 0700000000000000 ${zeros(8)}`;
    const rest = `00100000 ff000000 00100000 ${zeros(28)}`;
    expect(answer).toBe(header("60000000") + (blocks + rest).replace(/\s/g, ""));
  });

  it("an answer leaves nothing of the one before", () => {
    const reply = new Reply();
    reply.begin(1, 0);
    reply.bytes(Buffer.alloc(200, 0xff));
    reply.end();
    reply.begin(2, 0);
    reply.absent(0);
    expect(reply.buffer.toString("hex", 16, reply.end())).toBe(zeros(128));
  });
});

describe("notifications", () => {
  it("name the inode whose cache is void", () => {
    expect(encodeInvalidInode(1).toString("hex")).toBe(
      `2800000002000000${zeros(8)}0100000000000000${zeros(16)}`,
    );
  });

  it("name the entry that is void, ended by NUL", () => {
    expect(encodeInvalidEntry(1, pathComponentOfText("abc")).toString("hex")).toBe(
      `2400000003000000${zeros(8)}01000000000000000300000000000000${"61626300"}`,
    );
  });

  it("ask for unanswered requests again", () => {
    expect(encodeResend().toString("hex")).toBe(`1000000007000000${zeros(8)}`);
  });
});
