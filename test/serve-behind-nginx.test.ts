import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import { type ClientHttp2Session, connect } from "node:http2";
import { type AddressInfo, connect as connectTcp, createServer as createTcpServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CastoreProcess, runCastore, startCastore } from "./support/castore-process.ts";
import { type Nginx, startNginx } from "./support/nginx.ts";
import { createNixWorld, type NixWorld } from "./support/nix-world.ts";
import { freePort } from "./support/ports.ts";
import { operationsBlock } from "./support/static-host.ts";
import { createThrowAwayCertificate } from "./support/throw-away-certificate.ts";

/** The proxy of docs/operations.md as it stands, in front of what `upstream` names. */
async function startProxy(world: NixWorld, upstream: string) {
  const { cert, key } = createThrowAwayCertificate();
  const files = world.temporary("proxy");
  mkdirSync(files);
  for (const [name, text] of Object.entries({ cert, key })) writeFileSync(join(files, name), text);
  const port = await freePort();
  const http = operationsBlock("nginx proxy")
    .replace("server 127.0.0.1:9001", `server ${upstream}`)
    .replace("listen 443 ", `listen 127.0.0.1:${port} `)
    .replace("server_name cache.example.org", "server_name localhost")
    .replace("/etc/ssl/cache.pem", join(files, "cert"))
    .replace("/etc/ssl/cache.key", join(files, "key"));
  const nginx = await startNginx({ directory: files, http });
  return { nginx, cert, certFile: join(files, "cert"), url: `https://localhost:${port}` };
}

/** Connections that come by on their way to `port`. */
async function startCounter(port: number) {
  let connections = 0;
  const server = createTcpServer((socket) => {
    connections++;
    const on = connectTcp(port, "127.0.0.1");
    socket.on("error", () => on.destroy()).pipe(on);
    on.on("error", () => socket.destroy()).pipe(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: () => connections,
    close: () => server.close(),
  };
}

describe("castore serve behind nginx", () => {
  let world: NixWorld;
  let lib: string;
  let serve: CastoreProcess;
  beforeAll(async () => {
    world = await createNixWorld();
    lib = await world.build("relinked");
    serve = await startCastore("serve", ["--store", world.temporary("serve-store")]);
    const cache = await world.copyToCache([lib], "none");
    await world.run("nix", ["copy", "--from", `file://${cache}`, "--to", serve.url, lib]);
  });
  afterAll(async () => {
    await serve[Symbol.asyncDispose]();
    await world[Symbol.asyncDispose]();
  });

  it("gives whole closures by Upgrade over TLS, on connections that are kept", async () => {
    const counter = await startCounter(Number(new URL(serve.url).port));
    const proxy = await startProxy(world, counter.address);
    await using nginx: Nginx = proxy.nginx;
    const args = ["--upstream", proxy.url, "--upgrade", "require", "--json", lib];
    const output = await runCastore(
      ["substitute", "--store", world.temporary("store"), ...args].concat([
        "--trusted-public-key",
        world.publicKey,
      ]),
      { env: { NIX_SSL_CERT_FILE: proxy.certFile } },
    );
    expect(output).toMatchObject({ code: 0 });
    const lines = nginx.requests().map(({ line }) => line);
    expect(lines.filter((line) => line.includes("POST /castore/fetch"))).not.toEqual([]);
    expect(lines.filter((line) => line.includes("/nar/"))).toEqual([]);
    const session = connect(proxy.url, { ca: proxy.cert });
    try {
      const path = `/${lib.slice(11, 43)}.narinfo`;
      for (let i = 0; i < 50; i++) expect(await get(session, path)).toBe(200);
    } finally {
      session.destroy();
    }
    // As many as were open at once, in each of nginx's workers, and not one for each request.
    expect(counter.connections()).toBeLessThanOrEqual(20);
    counter.close();
  });

  it("lets the first frame of a batch through while the last is not made yet", async () => {
    let goOn = (): void => {};
    await using upstream = await startUpstream((_request, response) => {
      response.writeHead(200).write(Buffer.alloc(10, 1));
      goOn = () => response.end(Buffer.alloc(10, 2));
    });
    const proxy = await startProxy(world, upstream.address);
    await using _nginx = proxy.nginx;
    const session = connect(proxy.url, { ca: proxy.cert });
    try {
      const stream = session.request({ ":method": "POST", ":path": "/castore/fetch" });
      stream.end("wanted");
      const [first] = await once(stream, "data");
      expect(first).toEqual(Buffer.alloc(10, 1));
      goOn();
      const [second] = await once(stream, "data");
      expect(second).toEqual(Buffer.alloc(10, 2));
    } finally {
      session.destroy();
    }
  });

  it("lets an upload through while its end is not sent yet", async () => {
    await using upstream = await startUpstream((request, response) => {
      request.once("data", (piece: Buffer) => response.writeHead(200).end(piece));
    });
    const proxy = await startProxy(world, upstream.address);
    await using _nginx = proxy.nginx;
    const session = connect(proxy.url, { ca: proxy.cert });
    try {
      const stream = session.request({ ":method": "PUT", ":path": "/nar/x.nar" });
      stream.write("beginning");
      const [echo] = await once(stream, "data");
      expect(String(echo)).toBe("beginning");
    } finally {
      session.destroy();
    }
  });
});

async function get(session: ClientHttp2Session, path: string): Promise<number | undefined> {
  const stream = session.request({ ":path": path });
  const [headers] = await once(stream, "response");
  stream.resume();
  await once(stream, "end");
  return headers[":status"];
}

async function startUpstream(listener: RequestListener) {
  const server = createServer(listener).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}
