import { randomInt } from "node:crypto";
import { chmod, lutimes, mkdir, open, readdir, symlink, writeFile } from "node:fs/promises";
import { pathComponentOfText } from "@castore/castore";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { compareTrees } from "../../../test/support/compare-trees.ts";
import {
  createMemoryStore,
  type MemoryStore,
  type MountedStore,
  mountTemporary,
  output,
  temporaryDirectory,
} from "./mount-fixture.ts";
import { storePath } from "./store-path.js";

const LARGE_BYTES = 9_000_001;

/** A tree with everything that a tree may hold, dated and moded as the mount shows it. */
async function makeTree(root: string, seed: number): Promise<void> {
  const at = Buffer.from(`${root}/`);
  const path = (name: Buffer | string) => Buffer.concat([at, Buffer.from(name)]);
  await mkdir(`${root}/empty`, { recursive: true });
  for (let byte = 1; byte < 256; byte++) {
    if (byte === 0x2f || byte === 0x2e) continue;
    await writeFile(path(Buffer.from([byte])), `byte ${byte}`);
  }
  await writeFile(path("n".repeat(255)), "a long name");
  await writeFile(path(Buffer.alloc(255, 0xff)), "a long name that is not UTF-8");
  await writeFile(path("executable"), "#!/bin/sh\necho run\n");
  await chmod(path("executable"), 0o555);
  await writeFile(path("empty-file"), "");
  await writeFile(path("zeros"), Buffer.alloc(1_000_000));
  await writeFile(path("large"), pseudoRandom(LARGE_BYTES, seed));
  await symlink("executable", path("link"));
  await symlink(Buffer.from([0x2e, 0x2f, 0xfe]), path("link to bytes"));
  await symlink("t".repeat(4095), path("long link"));
  await mkdir(path("many"));
  for (let i = 0; i < 1000; i++) await writeFile(path(`many/${i}`), `small file ${i}`);
  for (const name of ["twin", "deep/a/b/c/d/e/f/twin"]) {
    await mkdir(path(name), { recursive: true });
    await writeFile(path(`${name}/file`), "the same");
  }
  await output(`cd '${root}'; find . -type f ! -perm 555 -exec chmod 444 {} +
    find . -type d -exec chmod 555 {} +; find . -exec touch -h -d @1 {} +`);
  await lutimes(root, 0, 1);
}

function pseudoRandom(bytes: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  let state = seed | 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return Buffer.from(words.buffer, 0, bytes);
}

describe("a whole tree through a mount", () => {
  const seed = randomInt(2 ** 31);
  const store: MemoryStore = createMemoryStore();
  let base: string;
  let original: string;

  beforeAll(async () => {
    console.log(`seed ${seed}`);
    base = await temporaryDirectory();
    original = `${base}/tree`;
    await makeTree(original, seed);
    store.roots.set(pathComponentOfText("tree"), { node: await storePath(store, original) });
  });
  afterAll(() => output(`rm -rf '${base}'`));

  async function withMount(
    body: (tree: string, mounted: MountedStore) => Promise<void>,
  ): Promise<void> {
    await using m = await mountTemporary(store);
    await body(`${m.base}/mnt/tree`, m);
    expect(m.log).toEqual([]);
  }

  it("is the original, name by name and byte by byte, cold and warm", () =>
    withMount(async (tree) => {
      expect(await compareTrees(original, tree)).toEqual([]);
      expect(await compareTrees(original, tree)).toEqual([]);
    }));

  it("is found as the original by find", () =>
    withMount(async (tree) => {
      // Links have mode 777 on other file systems.
      const find = "find . -printf '%P\\0%y\\0%l\\0%T@\\0' ! -type l -printf '%m\\0' | sort -z";
      const wanted = await output(`cd '${original}'; ${find}`);
      expect((await output(`cd '${tree}'; ${find}`)) === wanted).toBe(true);
      expect(wanted.length).toBeGreaterThan(1200);
    }));

  it.each([
    ["tar", "tar --sort=name --mode=444 --owner=0 --group=0 -cf - . | sha256sum"],
    ["cp --sparse=always", "cp -r --sparse=always . $OUT; cd $OUT; SUM"],
    ["rsync -S", "rsync -aS . $OUT; cd $OUT; SUM"],
    ["tar -S to a copy", "tar -Scf - . | tar -xf - -C $OUT; cd $OUT; SUM"],
    ["a program that reads in one piece", "SUM"],
  ])("%s reads the same bytes, cold", (_, script) =>
    withMount(async (tree, { base }) => {
      const sum = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
      const on = (at: string, out: string) =>
        output(`mkdir -p ${out}; OUT=${out}; SUM() { ${sum}; }; cd '${at}' && ${script}
          chmod -R u+w ${out}; rm -rf ${out}`);
      expect(await on(tree, `${base}/out`)).toBe(await on(original, `${base}/out`));
    }),
  );

  it("takes the room that its sizes say, so that nothing is mistaken for a hole", () =>
    withMount(async (tree) => {
      expect(await output(`stat -c '%s %b' '${tree}/zeros' '${tree}/large'`)).toBe(
        "1000000 1954\n9000001 17579\n",
      );
      expect(await output(`du -s --apparent-size -B1 '${tree}/many/7' | cut -f1`)).toBe("12\n");
    }));

  it("gives what the original gives at random places, from many readers", () =>
    withMount(async (tree) => {
      const names = (await readdir(original, { encoding: "buffer" })).filter((n) => n.length > 4);
      expect(names.length).toBeGreaterThan(5);
      const [a, b] = await Promise.all([open(`${original}/large`), open(`${tree}/large`)]);
      for (let round = 0; round < 300; round++) {
        const position = randomInt(LARGE_BYTES + 10);
        const length = randomInt(1, round % 10 === 0 ? 2_000_000 : 20_000);
        const [x, y] = await Promise.all(
          [a, b].map((file) => file.read(Buffer.alloc(length), 0, length, position)),
        );
        expect(x?.bytesRead).toBe(y?.bytesRead);
        expect(x?.buffer.equals(y?.buffer ?? Buffer.alloc(0)), `at ${position}`).toBe(true);
      }
      await Promise.all([a.close(), b.close()]);
    }));

  it("keeps a working directory its own when the same directory lies elsewhere too", () =>
    withMount(async (tree) => {
      const script = `cd '${tree}/twin'; stat -c %i .; stat '${tree}/deep/a/b/c/d/e/f/twin' >&2
        stat -c %i .; pwd -P; cat file`;
      const [first, second, cwd, content] = (await output(script)).split("\n");
      expect(first).toBe(second);
      expect(cwd).toBe(`${tree}/twin`);
      expect(content).toBe("the same");
    }));

  it("has inode numbers of 32 bits, each its own", () =>
    withMount(async (tree) => {
      const inodes = (await output(`find '${tree}' -printf '%i\n'`)).trim().split("\n");
      expect(new Set(inodes).size).toBe(inodes.length);
      expect(Math.max(...inodes.map(Number))).toBeLessThan(2 ** 32);
    }));

  it("runs programs, and lets 1,000 files be open at once", () =>
    withMount(async (tree) => {
      expect(await output(`'${tree}/executable'; '${tree}/link'`)).toBe("run\nrun\n");
      const script = `python3 -c '
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
files = [open("${tree}/many/%d" % i) for i in range(1000)]
print(sum(f.read() == "small file %d" % i for i, f in enumerate(files)))'`;
      expect(await output(script)).toBe("1000\n");
    }));

  it("serves many processes that start and end", () =>
    withMount(async (tree) => {
      const one = `(cat '${tree}/many/'$i; '${tree}/executable')`;
      const script = `for i in $(seq 200); do ${one} & done | grep -o run | wc -l; wait`;
      expect(await output(script)).toBe("200\n");
    }));
});
