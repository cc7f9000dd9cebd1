import { spawn } from "node:child_process";
import { once as eventOf } from "node:events";
import { mkdir, rm, stat, writeFile } from "node:fs/promises";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { resends } from "../src/cloned-descriptor.ts";
import { type SupervisedMount, superviseMount } from "../src/supervisor.ts";
import { output, run, temporaryDirectory } from "./mount-fixture.ts";

const program = fileURLToPath(new URL("serve-tree.js", import.meta.url));

interface Supervised extends AsyncDisposable {
  readonly mount: SupervisedMount;
  readonly at: string;
  readonly base: string;
  readonly log: string[];
}

async function supervised(
  options: Readonly<Record<string, unknown>> = {},
  timeoutMs = 30_000,
  direct?: Readonly<Record<string, string>>,
): Promise<Supervised> {
  const base = await temporaryDirectory();
  const at = `${base}/mnt`;
  await mkdir(at);
  await output(`mkdir -p '${base}/tree/sub'; echo content >'${base}/tree/sub/file'
    for i in $(seq 100); do echo $i >'${base}/tree/'$i; done
    seq 20000 >'${base}/tree/large'`);
  const log: string[] = [];
  const tree = `${base}/tree`;
  const atHand = direct && { direct: { tree, ...direct } };
  const settings = { mountpoint: at, trees: { t: tree }, inherited: true, ...atHand, ...options };
  const mount = await superviseMount({
    mountpoint: at,
    command: [process.execPath, program, JSON.stringify({ listRoot: true, ...settings })],
    timeoutMs,
    log: (line) => log.push(line),
  });
  return {
    mount,
    at,
    base,
    log,
    async [Symbol.asyncDispose]() {
      await mount.close();
      await rm(base, { recursive: true });
    },
  };
}

async function temporary(): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await temporaryDirectory();
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) };
}

/** Resolves once a server has read a request that waits for the gate. */
async function isAsked(gate: string): Promise<void> {
  await output(`until [ -e '${gate}.asked' ]; do sleep 0.01; done`);
}

it("requests are sent again from Linux 6.9 on", () => {
  const releases = ["5.15.0-91", "6.1.0-18-amd64", "6.8.12", "6.9", "6.10.3-arch1", "7.0.0-rc1"];
  expect(releases.map(resends)).toEqual([false, false, false, true, true, true]);
});

describe("a supervised mount", () => {
  it("serves and unmounts", async () => {
    await using m = await supervised();
    expect(await output(`cat '${m.at}/t/sub/file'; ls '${m.at}'`)).toBe("content\nt\n");
    await m.mount.unmount();
    await m.mount.ended;
    expect(await output("cat /proc/mounts")).not.toContain(m.at);
  });

  it("goes on with the same inodes when its server is killed", async () => {
    await using m = await supervised();
    const inodes = `find '${m.at}/t' -printf '%i %P\n' | sort`;
    const before = await output(inodes);
    const child = spawn("bash", [
      "-c",
      `cd '${m.at}/t/sub'; exec 5<file; echo; read; cat file <&5`,
    ]);
    await eventOf(child.stdout, "data");
    const first = m.mount.pid;
    process.kill(first, "SIGKILL");
    const said = eventOf(child.stdout, "data");
    child.stdin.end("\n");
    expect(String(await said)).toBe("content\n");
    expect(await output(inodes)).toBe(before);
    expect(await output(`ls '${m.at}/t/sub'; cat '${m.at}/t/77'`)).toBe("file\n77\n");
    expect(m.mount.pid).not.toBe(first);
    expect(m.log).toEqual([`server ${first}: ended with SIGKILL`]);
  });

  it.each([
    ["READ", "content", "cat t/sub/file", "content\n"],
    ["LOOKUP", "name", "cat t/sub/file", "content\n"],
    ["LOOKUP below", "entries", "cat t/sub/file", "content\n"],
    ["READDIR", "entries", "ls t/sub", "file\n"],
  ])("answers a %s that the killed server had read", async (_, kind, command, wanted) => {
    await using directory = await temporary();
    const gate = `${directory.path}/gate`;
    await using m = await supervised({ gates: { [kind]: gate } });
    const child = spawn("bash", ["-c", `cd '${m.at}'; exec ${command}`]);
    const said = eventOf(child.stdout, "data");
    await isAsked(gate);
    process.kill(m.mount.pid, "SIGKILL");
    await writeFile(gate, "");
    expect(String((await said)[0])).toBe(wanted);
  });

  it("answers an OPEN that the killed server had read", async () => {
    await using directory = await temporary();
    const held = `${directory.path}/held`;
    await using m = await supervised({ passthrough: true }, 30_000, { held });
    const reading = run(`tail -n 1 '${m.at}/t/large'`);
    await isAsked(held);
    process.kill(m.mount.pid, "SIGKILL");
    await writeFile(held, "");
    expect((await reading).stdout).toBe("20000\n");
  });

  it("goes on when its server is killed while a thread of it waits for a page", async () => {
    await using directory = await temporary();
    const [gate, until] = [`${directory.path}/gate`, `${directory.path}/until`];
    const absent = "20";
    await using m = await supervised({ gates: { content: gate } }, 30_000, { absent, until });
    const server = m.mount.pid;
    await output(`ls -l '${m.at}/t'`);
    const reading = run(`cat '${m.at}/t/20'`);
    await isAsked(gate);
    // Who reads these is taken to go on to 20, whose page is locked until its READ is answered.
    await writeFile(until, "");
    expect(await output(`cd '${m.at}/t'; cat 1 10 100`)).toBe("1\n10\n100\n");
    // For 20 looks: other waits, for a disk say, are shorter.
    await output(`for ((n = 0; n < 20; n++)); do sleep 0.01
      [ -d /proc/${server} ] || exit 1
      cat /proc/${server}/task/*/stat | grep -q ') D ' || n=0; done`);
    process.kill(server, "SIGKILL");
    await writeFile(gate, "");
    expect((await reading).stdout).toBe("20\n");
    expect(m.log).toEqual([`server ${server}: was killed and cannot end`]);
  });

  it("through a cloned descriptor, ends what the killed server had read, and goes on", async () => {
    await using directory = await temporary();
    const gate = `${directory.path}/gate`;
    await using m = await supervised({ gates: { name: gate }, clone: true });
    const child = spawn("stat", [`${m.at}/t`], { env: { LC_ALL: "C" } });
    const said = text(child.stderr);
    await isAsked(gate);
    process.kill(m.mount.pid, "SIGKILL");
    expect(await said).toContain("Software caused connection abort");
    await writeFile(gate, "");
    expect(await output(`cat '${m.at}/t/sub/file'`)).toBe("content\n");
  });

  it("follows a server that hangs, in time for who waits", async () => {
    await using m = await supervised({}, 6_000);
    process.kill(m.mount.pid, "SIGSTOP");
    expect(await output(`cat '${m.at}/t/sub/file'`)).toBe("content\n");
    expect(m.log[0]).toContain("silent for 6 s, killed");
  });

  it("ends, and ends who waits, when no server stays", async () => {
    await using directory = await temporary();
    const mountpoint = `${directory.path}/mnt`;
    await mkdir(mountpoint);
    const mounting = superviseMount({ mountpoint, command: ["/bin/false"] });
    await expect(mounting).rejects.toMatchObject({ code: "UNAVAILABLE" });
    expect((await stat(mountpoint)).isDirectory()).toBe(true);
  });

  it("ends who waits when its server is killed and no other one starts", async () => {
    await using directory = await temporary();
    const once = `${directory.path}/once`;
    const gate = `${directory.path}/gate`;
    await using m = await supervised({ once, gates: { content: gate } });
    const reading = spawn("cat", [`${m.at}/t/sub/file`], { stdio: "ignore" });
    const exited = eventOf(reading, "exit");
    await isAsked(gate);
    process.kill(m.mount.pid, "SIGKILL");
    await expect(m.mount.ended).rejects.toThrow(/given up, the server ended with 1 again/);
    expect((await exited)[0]).not.toBe(0);
    expect(await output("cat /proc/mounts")).not.toContain(m.at);
  });

  it("ends who waits when servers hang one after the other", async () => {
    await using directory = await temporary();
    const gates = { content: `${directory.path}/gate` };
    await using m = await supervised({ timeoutMs: 60_000, gates }, 4_000);
    const reading = run(`cat '${m.at}/t/sub/file'`);
    const stop = setInterval(() => process.kill(m.mount.pid, "SIGSTOP"), 20);
    await expect(m.mount.ended).rejects.toThrow(/given up, no server answers/);
    clearInterval(stop);
    expect((await reading).status).not.toBe(0);
  });
});

const TIMEOUT_MS = 8_000;
const WAITING = { content: "cat t/sub/file", entries: "ls t/sub", name: "stat t" };

interface Harm {
  /** Whether another server can be started. */
  readonly succession: boolean;
  readonly happens: (server: number, gate: string) => unknown;
}

/**
 * How long programs wait, in ms, from when the server has their request: the longest of a READ, a
 * listing and a LOOKUP, each on a mount of its own.
 */
async function longestWait({ succession, happens }: Harm): Promise<number> {
  const waits = Object.entries(WAITING).map(async ([kind, command]) => {
    await using directory = await temporary();
    const gate = `${directory.path}/gate`;
    const last = succession ? {} : { once: `${directory.path}/once` };
    const options = { gates: { [kind]: gate }, timeoutMs: TIMEOUT_MS, ...last };
    await using m = await supervised(options, TIMEOUT_MS);
    const waiting = run(`cd '${m.at}'; exec ${command}`);
    await isAsked(gate);
    const since = performance.now();
    await happens(m.mount.pid, gate);
    await waiting;
    const waited = performance.now() - since;
    await writeFile(gate, "");
    return waited;
  });
  return Math.max(...(await Promise.all(waits)));
}

describe("at the time limit and 5 s nobody waits on a mount", () => {
  it.each<[string, Harm]>([
    ["upstream is stalled", { succession: true, happens: () => {} }],
    [
      "server is stopped",
      {
        succession: true,
        async happens(server, gate) {
          process.kill(server, "SIGSTOP");
          await writeFile(gate, "");
        },
      },
    ],
    [
      "server is killed and has no successor",
      { succession: false, happens: (server) => process.kill(server, "SIGKILL") },
    ],
  ])("whose %s", async (what, harm) => {
    const waited = await longestWait(harm);
    console.log(`${what}: ${(waited / 1000).toFixed(1)} s`);
    expect(waited).toBeLessThan(TIMEOUT_MS + 5_000);
  });
});
