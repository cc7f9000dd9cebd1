import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, realpath, rm } from "node:fs/promises";
import { createInterface } from "node:readline";
import {
  type BlobService,
  CastoreError,
  localDirectContent,
  openLocalStore,
  pathComponentOfText,
} from "@castore/castore";
import { expect, it, onTestFinished } from "vitest";
import { createMemoryStore, mountTemporary, output, temporaryDirectory } from "./mount-fixture.ts";

/** Work of which the interpreter's code was not needed until it is told to go on. */
const WORK = `
import ast, itertools, math
print(ast.dump(ast.parse("x = lambda a: a ** 2 if a else [b async for b in c]")))
print(math.factorial(300), complex(1, 2) ** 3, "%.40e" % math.pi, hash((1, 2.5)))
print(sorted(itertools.permutations("abc")), b"abc".hex(), "ß".upper().casefold())
`;

it.each([false, true])(
  "a program runs while the rest of its blob comes in, which is opened again (passthrough %s)",
  async (passthrough) => {
    const python = await realpath("/usr/bin/python3");
    const bytes = await readFile(python);
    const other = createMemoryStore();
    const { digest, size } = await other.blobs.put([bytes]);
    const name = pathComponentOfText("python");
    other.roots.set(name, { node: { type: "file", digest, size, executable: true } });
    let isLost = false;
    const blobs: BlobService = {
      ...other.blobs,
      async open(wanted, options) {
        if (isLost) throw new CastoreError("UNAVAILABLE", "upstream: lost");
        return other.blobs.open(wanted, options);
      },
    };
    const base = await temporaryDirectory();
    onTestFinished(() => rm(base, { recursive: true }));
    await using store = await openLocalStore({ path: `${base}/store`, create: true });
    const content = localDirectContent(store);
    await using m = await mountTemporary({ ...other, blobs }, { content, passthrough });
    const program = `${m.base}/mnt/python`;

    const code = `print("ready", flush=True); input(); exec(${JSON.stringify(WORK)})`;
    // Through a shell: who starts a program waits until it runs.
    const child = spawn("bash", ["-c", `exec '${program}' -S -c '${code}'`], {
      env: { ...process.env, PYTHONHOME: "/usr" },
      stdio: ["pipe", "pipe", "inherit"],
    });
    const ended = once(child, "exit");
    const said: string[] = [];
    const lines = createInterface({ input: child.stdout }).on("line", (line) => said.push(line));
    const closed = once(lines, "close");
    await once(lines, "line");
    expect(said).toEqual(["ready"]);
    const pages = Number(await output(`fincore -nbo PAGES '${program}'`));
    expect(pages).toBeLessThan(size / 4096);

    await store.blobs.put([bytes]);
    isLost = true; // not before: the kernel may be reading ahead
    await output(`cmp '${program}' '${python}'`);
    expect(await output(`PYTHONHOME=/usr '${program}' -S -c 'print(6 * 7)'`)).toBe("42\n");
    child.stdin.end("\n");
    expect(await ended).toEqual([0, null]);
    await closed;
    const wanted = (await output(`'${python}' -S -c '${WORK}'`)).trimEnd().split("\n");
    expect(said).toEqual(["ready", ...wanted]);
    expect(m.log).toEqual([]);
  },
);
