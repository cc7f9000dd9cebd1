import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { storePathHash } from "../src/nix/store-path.ts";
import {
  openPathInfoService,
  parsePathInfoServiceUrl,
} from "../src/path-infos/path-info-service-url.ts";
import { samplePathInfo } from "./path-info-service-suite.ts";
import { vectors } from "./vectors.ts";

test.each(vectors.service_urls.pathinfo)("path info service URL %s: accepted %i", (url, ok) => {
  const parse = () => parsePathInfoServiceUrl(url);
  if (ok) expect(parse()).toBeDefined();
  else expect(parse).toThrow(expect.objectContaining({ code: "INVALID" }));
});

test("a binary cache's URL keeps its keys, whose base64 may hold a plus", () => {
  const key = "k-1:a+aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaA=";
  const url = parsePathInfoServiceUrl(`nix+https://h/p?trusted_public_keys[0]=${key}`);
  if (url.type !== "binary-cache") throw new Error(url.type);
  expect(url.url.href).toBe("https://h/p");
  expect(url.trustedKeys.keys.map(({ text }) => text)).toEqual([key]);
});

test("a URL opens what it names, here a cache before a directory of objects", async () => {
  const directory = await mkdtemp(join(tmpdir(), "castore-url-"));
  const far = parsePathInfoServiceUrl(`file://${directory}`);
  const both = parsePathInfoServiceUrl(`cache:?near=memory:&far=file://${directory}`);
  if (far.type === "binary-cache" || both.type === "binary-cache") throw new Error("unreachable");
  const pathInfo = samplePathInfo("1-a");
  await using objects = await openPathInfoService(far);
  await objects.service.put(pathInfo);
  await using cached = await openPathInfoService(both);
  expect(await cached.service.get(storePathHash(pathInfo.storePath))).toEqual(pathInfo);
  await rm(directory, { recursive: true });
});

test("snix's own database is said to be unsupported", async () => {
  const url = parsePathInfoServiceUrl("redb:/tmp/foo");
  if (url.type === "binary-cache") throw new Error("unreachable");
  await expect(openPathInfoService(url)).rejects.toHaveProperty("code", "UNSUPPORTED");
});
