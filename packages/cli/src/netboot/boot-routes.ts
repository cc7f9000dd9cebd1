import { createReadStream } from "node:fs";
import { readFile, rename, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isCastoreError, systemCodeOf } from "@castore/castore";
import type { createCacheServer } from "@castore/nar-bridge";
import { formatIpxeScript } from "./ipxe-script.ts";
import { Machines, parseMachineName, STARTED } from "./machines.ts";
import { PAGE_POLICY, statusPage } from "./status-page.ts";

type CacheServer = ReturnType<typeof createCacheServer>;

export interface BootRoutesOptions {
  /** What `castore netboot build` wrote. */
  readonly boot: string;
  /** MACHINE.conf and default.conf: what machines are told of themselves. */
  readonly configurations?: string | undefined;
  readonly commandLine: string;
  /** What `castore netboot profile` wrote, for every machine. */
  readonly profile?: string | undefined;
  /** Where machines may leave traces of what they touch, MACHINE.trace; else they are refused. */
  readonly traces?: string | undefined;
  /** The image of a system, as BootImages has it. */
  readonly imageOf: (storePath: string) => Promise<Uint8Array | undefined>;
}

/** Of systems, by store path: metadata, which count as what comes from the store. */
const IMAGES = "/boot/images/";
/** Longest that a machine may say about what it does. */
const STAGE_BYTES_MAX = 1_000;
/** Longest trace of a boot. */
const TRACE_BYTES_MAX = 16 << 20;

/**
 * Adds to a cache what machines need to boot from it, and a page about them at /boot/. Counts what
 * every address is sent.
 */
export function addBootRoutes(server: CacheServer, options: BootRoutesOptions): Machines {
  const { boot, configurations, commandLine, profile, traces, imageOf } = options;
  const machines = new Machines();
  server.addHook("onRequest", async (request, reply) => {
    const { url } = request;
    const kind = url.startsWith("/boot") && !url.startsWith(IMAGES) ? "boot" : "store";
    const { socket } = request.raw;
    const stop = machines.count(addressOf(request.ip), kind, socket);
    reply.raw.once("close", stop);
  });
  server.get("/boot.ipxe", async (request, reply) => {
    const server = `http://${request.headers.host}`;
    await reply.type("text/plain").send(formatIpxeScript({ commandLine, base: "boot/", server }));
  });
  const files = { kernel: join(boot, "kernel"), initrd: join(boot, "initrd"), profile };
  for (const [name, path] of Object.entries(files)) {
    if (path !== undefined) addFile(server, `/boot/${name}`, path);
  }
  server.get(`${IMAGES}:storePath`, async (request, reply) => {
    const image = await imageOf((request.params as { readonly storePath: string }).storePath).catch(
      (error: unknown) => {
        if (isCastoreError(error, "INVALID") || isCastoreError(error, "INCOMPLETE"))
          return undefined;
        throw error;
      },
    );
    if (image === undefined) return reply.callNotFound();
    await reply.type("application/zstd").send(Buffer.from(image));
  });
  server.get("/boot/machines/:machine", async (request, reply) => {
    const name = machineOf(request.params);
    if (name === undefined) return reply.callNotFound();
    machines.enter(name, addressOf(request.ip), STARTED);
    await reply.type("text/plain").send(await configurationOf(configurations, name));
  });
  server.post("/boot/machines/:machine/stage", async (request, reply) => {
    const name = machineOf(request.params);
    if (name === undefined) return reply.callNotFound();
    const stage = (await readStart(request.raw, STAGE_BYTES_MAX)).toString("utf8");
    machines.enter(name, addressOf(request.ip), stage.replace(/\s+/g, " ").trim());
    await reply.type("text/plain").send("ok\n");
  });
  server.post("/boot/machines/:machine/trace", async (request, reply) => {
    const name = machineOf(request.params);
    if (name === undefined || traces === undefined) return reply.callNotFound();
    const file = join(traces, `${fileNameOf(name)}.trace`);
    await writeFile(`${file}.new`, await readStart(request.raw, TRACE_BYTES_MAX));
    await rename(`${file}.new`, file);
    await reply.type("text/plain").send("ok\n");
  });
  server.get("/boot/", async (_request, reply) => {
    reply.header("content-security-policy", PAGE_POLICY).type("text/html; charset=utf-8");
    await reply.send(statusPage());
  });
  server.get("/boot/machines", async (_request, reply) => {
    reply.header("cache-control", "no-store").type("application/json");
    await reply.send(JSON.stringify(machines.list()));
  });
  return machines;
}

function addFile(server: CacheServer, url: string, path: string): void {
  server.get(url, async (_request, reply) => {
    const { size } = await stat(path);
    reply.header("content-length", size).type("application/octet-stream");
    await reply.send(createReadStream(path));
  });
}

function machineOf(params: unknown): string | undefined {
  return parseMachineName((params as { readonly machine: string }).machine);
}

/** One name for an IPv4 address, however the socket was opened. */
function addressOf(address: string): string {
  return address.replace(/^::ffff:/, "");
}

async function configurationOf(directory: string | undefined, name: string): Promise<string> {
  if (directory === undefined) return "";
  for (const file of [fileNameOf(name), "default"]) {
    try {
      return await readFile(join(directory, `${file}.conf`), "utf8");
    } catch (error) {
      if (systemCodeOf(error) !== "ENOENT") throw error;
    }
  }
  return "";
}

function fileNameOf(machine: string): string {
  return machine.replaceAll(":", "-");
}

async function readStart(body: AsyncIterable<Uint8Array>, bytesMax: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of body) {
    pieces.push(piece);
    size += piece.byteLength;
    if (size >= bytesMax) break;
  }
  return Buffer.concat(pieces).subarray(0, bytesMax);
}
