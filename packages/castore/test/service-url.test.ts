import fc from "fast-check";
import { expect, test } from "vitest";
import { isCastoreError } from "../src/castore-error.ts";
import { parseBlobServiceUrl, parseDirectoryServiceUrl } from "../src/services/service-url.ts";
import { vectors } from "./vectors.ts";

const blob = vectors.service_urls.blob;
const directory = vectors.service_urls.directory;

/** snix puts a cache in a URL behind a feature flag; castore just has it. */
const accepted = (expected: string | number): boolean => expected !== 0;

test.each(blob)("blob service URL %s: accepted %s", (url, expected) => {
  check(() => parseBlobServiceUrl(url), accepted(expected));
});

test.each(directory)("directory service URL %s: accepted %s", (url, expected) => {
  check(() => parseDirectoryServiceUrl(url), accepted(expected));
});

// That a host does not resolve shows when the channel is opened.
test.each(vectors.service_urls.grpc)("gRPC URL %s parses", (url) => {
  for (const parse of [parseBlobServiceUrl, parseDirectoryServiceUrl]) {
    expect(parse(url).type).toBe("grpc");
  }
});

function check(parse: () => unknown, ok: boolean): void {
  if (ok) expect(parse()).toBeDefined();
  else expect(parse).toThrow(expect.objectContaining({ code: "INVALID" }));
}

test("a gRPC URL says where to connect and how", () => {
  expect(parseBlobServiceUrl("grpc+unix:/run/x.sock?wait-connect=1")).toEqual({
    type: "grpc",
    address: { target: "grpc+unix:/run/x.sock", dial: "unix:/run/x.sock", waitConnect: true },
  });
  expect(parseBlobServiceUrl("grpc+http://[::1]:12345")).toMatchObject({
    address: { dial: "dns:[::1]:12345", waitConnect: false },
  });
  expect(parseBlobServiceUrl("grpc+https://h?tls-ca-cert-path=/ca.pem")).toMatchObject({
    address: { dial: "dns:h:443", tls: { caPath: "/ca.pem" } },
  });
});

test.each([
  "grpc+http://localhost/",
  "grpc+http://user@localhost",
  "grpc+http://localhost:99999",
  "grpc+http://localhost?tls-ca-cert-path=/x",
  "grpc+http://localhost?wait-connect=2",
  "grpc+http://localhost?wait-connect=0&wait-connect=1",
  "grpc+https://localhost?tls-client-cert-path=/x",
  "grpc+ftp://localhost",
  "objectstore+ftp://localhost/x",
  "file:///",
  "file://host/x",
  "s3:///prefix",
  "s3:bucket",
  "cache:?near=memory:",
  "cache:?near=memory:&far=cache:%3Fnear=memory:%26far=memory:",
  "memory",
  "",
])("%j is refused", (url) => {
  check(() => parseBlobServiceUrl(url), false);
});

test("a message about a URL leaves the parameters out, as they may hold secrets", () => {
  const parse = () => parseBlobServiceUrl("s3:///b?aws_secret_access_key=hunter2");
  expect(parse).toThrow(/service URL "s3:\/\/\/b\?…"/);
  expect(parse).not.toThrow(/hunter2/);
  expect(parse).toThrow(expect.toSatisfy((error: unknown) => isCastoreError(error, "INVALID")));
});

test("an object store URL keeps its location and parameters", () => {
  const url = parseBlobServiceUrl("s3://bucket/a/b?region=eu-1&endpoint=http%3A%2F%2Fh%3A1");
  expect(url).toEqual({
    type: "object-store",
    address: {
      scheme: "s3",
      location: "//bucket/a/b",
      options: new Map([
        ["region", "eu-1"],
        ["endpoint", "http://h:1"],
      ]),
    },
  });
});

test("any text is parsed or refused as INVALID", () => {
  const words = ["grpc+", "unix:", "http://", "objectstore+", "s3://", "file://", "cache:?", "/"];
  const more = ["near=", "far=", "&", "?", "%2f", "[::1]", ":99", "redb:", "bigtable://", "x"];
  const piece = fc.oneof(fc.constantFrom(...words, ...more), fc.string({ maxLength: 4 }));
  const text = fc.array(piece, { maxLength: 8 }).map((pieces) => pieces.join(""));
  fc.assert(
    fc.property(text, (url) => {
      for (const parse of [parseBlobServiceUrl, parseDirectoryServiceUrl]) {
        try {
          parse(url);
        } catch (error) {
          expect(isCastoreError(error, "INVALID"), `${url}: ${error}`).toBe(true);
        }
      }
    }),
    { numRuns: 3_000 },
  );
});
