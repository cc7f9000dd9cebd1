import { createServer, type IncomingMessage, request } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, test } from "vitest";
import { type UploadAccess, uploadRefusal } from "../src/server/upload-access.ts";

/** What a server on loopback decides of a request with that Authorization. */
async function refusal(access: UploadAccess, authorization?: string): Promise<number | undefined> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const asked = new Promise<IncomingMessage>((resolve) => {
    server.once("request", (message, response) => {
      response.end();
      resolve(message);
    });
  });
  const headers = authorization === undefined ? {} : { authorization };
  request({ port, host: "127.0.0.1", headers })
    .on("error", () => {})
    .end();
  const status = uploadRefusal(await asked, access)?.status;
  await new Promise((resolve) => server.close(resolve));
  return status;
}

const basic = (text: string) => `Basic ${Buffer.from(text).toString("base64")}`;

test("without a token whoever is on this machine may upload", async () => {
  expect(await refusal({ from: "loopback" })).toBeUndefined();
});

test("with a token it counts as Bearer and as the Basic password of any user", async () => {
  const access = { token: "s3:cret" };
  expect(await refusal(access, "Bearer s3:cret")).toBeUndefined();
  expect(await refusal(access, basic("anyone:s3:cret"))).toBeUndefined();
  expect(await refusal(access, basic(":s3:cret"))).toBeUndefined();
});

test("a missing, wrong or malformed token is refused, on this machine too", async () => {
  const access = { token: "secret" };
  expect(await refusal(access)).toBe(401);
  expect(await refusal(access, "Bearer")).toBe(401);
  expect(await refusal(access, basic("secret"))).toBe(401);
  expect(await refusal(access, "Bearer secre")).toBe(403);
  expect(await refusal(access, basic("secret:other"))).toBe(403);
});
