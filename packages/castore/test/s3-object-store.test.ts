import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startNginx } from "../../../test/support/nginx.ts";
import { type S3Server, startS3Server } from "../../../test/support/s3-server.ts";
import { signAwsRequest } from "../src/objects/aws-signature.ts";
import { openHttpObjectStore } from "../src/objects/http-object-store.ts";
import { createObjectStoreBlobService } from "../src/objects/object-store-blob-service.ts";
import {
  openS3ObjectStore,
  resolveS3Location,
  type S3Location,
} from "../src/objects/s3-object-store.ts";
import { readAll } from "./blob-service-suite.ts";
import { prngBytes } from "./vectors.ts";

let server: S3Server;
beforeAll(async () => {
  server = await startS3Server();
});
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

function locate(changes: Partial<S3Location> = {}): S3Location {
  return {
    bucket: server.bucket,
    prefix: "p/",
    endpoint: new URL(server.url),
    pathStyle: true,
    region: "us-east-1",
    credentials: server,
    ...changes,
  };
}

describe("against a real S3 server", () => {
  test("a wrong secret is DENIED, in every method", async () => {
    const credentials = { ...server, secretAccessKey: "wrong" };
    await using store = openS3ObjectStore(locate({ credentials }));
    for (const call of [
      () => store.get("k"),
      () => store.head("k"),
      () => store.put("k", Buffer.from("x")),
      () => store.delete("k"),
      () => store.list("")[Symbol.asyncIterator]().next(),
    ]) {
      await expect(call()).rejects.toHaveProperty("code", "DENIED");
    }
  });

  test("without credentials a private object is as good as absent", async () => {
    await using owner = openS3ObjectStore(locate());
    await owner.put("private", Buffer.from("x"));
    await using anyone = openS3ObjectStore(locate({ credentials: undefined }));
    expect(await anyone.get("private")).toBeUndefined();
    expect(await anyone.head("private")).toBeUndefined();
    await expect(anyone.put("k", Buffer.from("x"))).rejects.toHaveProperty("code", "DENIED");
  });

  test("a bucket that does not exist is an error, not an empty one", async () => {
    await using store = openS3ObjectStore(locate({ bucket: "no-such-bucket" }));
    await expect(store.get("k")).rejects.toThrow(/there is no such bucket/);
    await expect(store.put("k", Buffer.alloc(1))).rejects.toThrow(/there is no such bucket/);
  });

  test("two prefixes of one bucket do not meet", async () => {
    await using one = openS3ObjectStore(locate({ prefix: "one/" }));
    await using two = openS3ObjectStore(locate({ prefix: "two/" }));
    await one.put("k", Buffer.from("1"));
    expect(await two.get("k")).toBeUndefined();
    const keys: string[] = [];
    for await (const { key } of one.list("")) keys.push(key);
    expect(keys).toEqual(["k"]);
  });

  test("a key whose characters need encoding is signed rightly", async () => {
    await using store = openS3ObjectStore(locate());
    await store.put("a+b/c.d-e_f", Buffer.from("x"));
    expect((await store.get("a+b/c.d-e_f"))?.toString()).toBe("x");
    const keys: string[] = [];
    for await (const { key } of store.list("a+")) keys.push(key);
    expect(keys).toEqual(["a+b/c.d-e_f"]);
  });

  test("what one service wrote over S3, a plain web server serves to another", async () => {
    const bytes = prngBytes(2_000_000, "through nginx");
    await using store = openS3ObjectStore(locate({ prefix: "site/" }));
    const { digest } = await createObjectStoreBlobService(store).put([new Uint8Array(bytes)]);
    await using nginx = await startNginx({ directory: join(server.directory, "site") });
    await using http = openHttpObjectStore(new URL(nginx.url));
    const blobs = createObjectStoreBlobService(http);
    expect((await readAll(blobs, digest)).equals(bytes)).toBe(true);
    expect(await blobs.has(digest)).toBe(true);
    const key = `blobs/b3/${digest.slice(0, 4)}/${digest}`;
    const index = await store.get(key);
    expect(await http.get(key, { range: { start: 2, end: 10 } })).toEqual(index?.subarray(2, 10));
    const put = blobs.put([Buffer.from("new")]);
    await expect(put).rejects.toHaveProperty("code", "READ_ONLY");
    const list = http.list("")[Symbol.asyncIterator]().next();
    await expect(list).rejects.toHaveProperty("code", "UNSUPPORTED");
  });
});

describe("retries", () => {
  /** A server that answers as `answers` say, one after the other, and counts. */
  async function scripted(answers: readonly ((response: ServerResponse) => void)[]) {
    let requests = 0;
    const http = createServer((request, response) => {
      request.resume();
      answers[Math.min(requests++, answers.length - 1)]?.(response);
    });
    await new Promise<void>((resolve) => http.listen(0, "127.0.0.1", resolve));
    const address = http.address();
    if (address === null || typeof address === "string") throw new Error("no port");
    const endpoint = new URL(`http://127.0.0.1:${address.port}`);
    return {
      store: openS3ObjectStore(locate({ endpoint }), { pauseMs: 1, timeoutMs: 2_000 }),
      requests: () => requests,
      async [Symbol.asyncDispose]() {
        await this.store.close();
        http.closeAllConnections();
        await new Promise((resolve) => http.close(resolve));
      },
    };
  }
  const status =
    (code: number, headers = {}) =>
    (response: ServerResponse) => {
      response.writeHead(code, headers).end("an answer");
    };
  const cut = (response: ServerResponse) => {
    response.writeHead(200, { "content-length": "100" }).write("half");
    response.socket?.destroySoon();
  };
  const hangUp = (response: ServerResponse) => response.socket?.destroy();

  test("a request is tried again after 503, 429, 500, a cut body and a closed socket", async () => {
    const retried = [status(503), status(429, { "retry-after": "0" }), status(500), cut, hangUp];
    await using script = await scripted([...retried, status(200)]);
    expect((await script.store.get("k"))?.toString()).toBe("an answer");
    expect(script.requests()).toBe(6);
  });

  test("a put is tried again too, with its whole body", async () => {
    await using script = await scripted([hangUp, status(503), status(200)]);
    expect(await script.store.put("k", Buffer.alloc(100_000))).toBe(true);
    expect(script.requests()).toBe(3);
  });

  test("it gives up after six tries, UNAVAILABLE", async () => {
    await using script = await scripted([status(503)]);
    await expect(script.store.get("k")).rejects.toHaveProperty("code", "UNAVAILABLE");
    expect(script.requests()).toBe(6);
  });

  test("what is refused is not tried again", async () => {
    await using script = await scripted([status(403)]);
    await expect(script.store.get("k")).rejects.toHaveProperty("code", "DENIED");
    expect(script.requests()).toBe(1);
  });

  test("an abort ends the pause between tries", async () => {
    const reason = new Error("gone");
    const controller = new AbortController();
    const abortSoon = (response: ServerResponse) => {
      status(503, { "retry-after": "3600" })(response);
      setImmediate(() => controller.abort(reason));
    };
    await using script = await scripted([abortSoon]);
    const get = script.store.get("k", { signal: controller.signal });
    await expect(get).rejects.toBe(reason);
  });

  test("a server without conditional writes gets an unconditional one", async () => {
    const refuse = (response: ServerResponse) => {
      response.writeHead(400).end("<Error><Code>NotImplemented</Code></Error>");
    };
    await using script = await scripted([refuse, status(200)]);
    expect(await script.store.put("k", Buffer.alloc(1), { ifAbsent: true })).toBe(true);
    expect(await script.store.put("l", Buffer.alloc(1), { ifAbsent: true })).toBe(true);
    expect(script.requests()).toBe(3);
  });
});

test("a signature is the one that AWS's documentation gives", () => {
  const request = {
    method: "GET",
    host: "examplebucket.s3.amazonaws.com",
    path: "/test.txt",
    query: [],
    headers: { range: "bytes=0-9" },
    body: new Uint8Array(0),
  };
  const credentials = {
    accessKeyId: "AKIAIOSFODNN7EXAMPLE",
    secretAccessKey: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
  };
  const date = new Date("2013-05-24T00:00:00Z");
  const { authorization } = signAwsRequest(request, { credentials, region: "us-east-1", date });
  expect(authorization).toBe(
    "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request," +
      "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date," +
      "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
  );
});

describe("where a bucket is and who asks", () => {
  const home = mkdtempSync(join(tmpdir(), "castore-aws-"));
  const env = {
    AWS_SHARED_CREDENTIALS_FILE: join(home, "credentials"),
    AWS_CONFIG_FILE: join(home, "config"),
  };
  writeFileSync(
    env.AWS_SHARED_CREDENTIALS_FILE,
    "# mine\n[default]\naws_access_key_id = D\naws_secret_access_key = d\n[ci]\n" +
      "aws_access_key_id=C\naws_secret_access_key=c/=\naws_session_token=t\n",
  );
  writeFileSync(env.AWS_CONFIG_FILE, "[profile ci]\nregion = eu-west-3\n");
  afterAll(() => rmSync(home, { recursive: true }));
  const resolve = (location: string, query = "", extra = {}) =>
    resolveS3Location(location, new Map(new URLSearchParams(query)), { ...env, ...extra });

  test("of AWS: the host names the bucket, unless it has a dot", async () => {
    expect(await resolve("//bucket/a//b/")).toMatchObject({
      prefix: "a/b/",
      endpoint: new URL("https://s3.us-east-1.amazonaws.com"),
      pathStyle: false,
      credentials: { accessKeyId: "D", secretAccessKey: "d" },
    });
    expect(await resolve("//a.bucket", "region=eu-1")).toMatchObject({
      prefix: "",
      endpoint: new URL("https://s3.eu-1.amazonaws.com"),
      pathStyle: true,
    });
  });

  test("of another server: path style, unless told otherwise", async () => {
    expect(await resolve("//bucket", "endpoint=http://h:9000")).toMatchObject({
      endpoint: new URL("http://h:9000"),
      pathStyle: true,
    });
    expect(await resolve("//bucket", "endpoint=h&scheme=http&path-style=0")).toMatchObject({
      endpoint: new URL("http://h"),
      pathStyle: false,
    });
  });

  test("the URL wins over a profile, a profile over the environment", async () => {
    const keys = { AWS_ACCESS_KEY_ID: "E", AWS_SECRET_ACCESS_KEY: "e", AWS_REGION: "env-1" };
    const inUrl = "aws_access_key_id=U&aws_secret_access_key=u";
    const who = async (query: string, extra = {}) =>
      (await resolve("//bucket", query, extra)).credentials?.accessKeyId;
    expect(await who("", {})).toBe("D");
    expect(await who("", keys)).toBe("E");
    expect(await who("profile=ci", keys)).toBe("C");
    expect(await who(`profile=ci&${inUrl}`, keys)).toBe("U");
    expect(await who("aws_skip_signature=true", keys)).toBeUndefined();
    const ci = await resolve("//bucket", "profile=ci");
    expect(ci.region).toBe("eu-west-3");
    expect(ci.credentials).toEqual({
      accessKeyId: "C",
      secretAccessKey: "c/=",
      sessionToken: "t",
    });
  });

  test.each([
    ["//B", ""],
    ["//bucket/a b", ""],
    ["//bucket", "regoin=x"],
    ["//bucket", "profile=none"],
    ["//bucket", "endpoint=http://h/path"],
    ["//bucket", "path-style=maybe"],
  ])("%s with %j is INVALID", async (location, query) => {
    await expect(resolve(location, query)).rejects.toHaveProperty("code", "INVALID");
  });
});
