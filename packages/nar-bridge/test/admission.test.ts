import { describe, expect, it } from "vitest";
import { addressScope, isWithinReach, literalScope } from "../src/upstream/address-scope.ts";
import {
  admitUrl,
  parseCacheUrl,
  URL_CHARS_MAX,
  type UrlPurpose,
} from "../src/upstream/admission.ts";

const base = parseCacheUrl("https://cache.example/sub");
const policy = { base, upgradeOrigins: ["https://castore.example:8443/ignored", "nonsense"] };
const files = { base: parseCacheUrl("file:///srv/my%20cache") };

function outcome(text: string, purpose: UrlPurpose, by: typeof policy | typeof files = policy) {
  try {
    return admitUrl(text, purpose, by).href;
  } catch (error) {
    return error instanceof Error && "code" in error ? error.code : error;
  }
}

describe("a cache's own URL", () => {
  it.each([
    ["https://cache.example", "https://cache.example/"],
    ["https://cache.example/sub?priority=3#x", "https://cache.example/sub/"],
    ["file:///srv/cache", "file:///srv/cache/"],
  ])("%s is %s", (text, href) => expect(parseCacheUrl(text).href).toBe(href));

  it.each(["cache.example", "ssh://cache.example", "https://ann:secret@cache.example", ""])(
    "%s is refused, without the password in the message",
    (text) => {
      expect(() => parseCacheUrl(text)).toThrow(expect.objectContaining({ code: "INVALID" }));
      expect(() => parseCacheUrl(text)).not.toThrow(/secret/);
    },
  );
});

describe("URLs that a server names", () => {
  it.each<[UrlPurpose, string, string]>([
    ["nar", "nar/1.nar.xz", "https://cache.example/sub/nar/1.nar.xz"],
    ["nar", "nar/snix-castore/Q_-0?narsize=3", `${base.href}nar/snix-castore/Q_-0?narsize=3`],
    ["nar", "/nar/1.nar", "https://cache.example/nar/1.nar"],
    ["nar", "../up.nar#part", "https://cache.example/up.nar"],
    ["nar", "http://elsewhere.example/1.nar", "http://elsewhere.example/1.nar"],
    ["nar", "//elsewhere.example/1.nar", "https://elsewhere.example/1.nar"],
    ["nar", "http://ann@elsewhere.example/1.nar", "DENIED"],
    ["nar", "https://:x@cache.example/1.nar", "DENIED"],
    ["nar", "file:///etc/passwd", "DENIED"],
    ["nar", "ftp://elsewhere.example/1.nar", "DENIED"],
    ["nar", "data:text/plain,nar", "DENIED"],
    ["nar", "javascript:1", "DENIED"],
    ["nar", "", "INVALID"],
    ["nar", "nar/a b", "INVALID"],
    ["nar", "ht\ttp://elsewhere.example", "INVALID"],
    ["nar", "\\\\elsewhere.example\\1", "INVALID"],
    ["nar", "nar/\u00e9", "INVALID"],
    ["nar", "http://", "INVALID"],
    ["nar", "http://[::1", "INVALID"],
    ["nar", `nar/${"x".repeat(URL_CHARS_MAX)}`, "INVALID"],
    ["redirect", "https://cdn.example/x?sig=1", "https://cdn.example/x?sig=1"],
    ["redirect", "file:///etc/passwd", "DENIED"],
    ["upgrade", "castore/", "https://cache.example/sub/castore/"],
    ["upgrade", "https://cache.example:443/other/", "https://cache.example/other/"],
    ["upgrade", "http://cache.example/castore/", "DENIED"],
    ["upgrade", "https://cache.example:444/castore/", "DENIED"],
    ["upgrade", "https://sub.cache.example/castore/", "DENIED"],
    ["upgrade", "//elsewhere.example/", "DENIED"],
    ["upgrade", "https://castore.example:8443/v1/", "https://castore.example:8443/v1/"],
    ["upgrade", "https://ann@castore.example:8443/", "DENIED"],
    ["upgrade", "http://castore.example:8443/v1/", "DENIED"],
    ["grpc", "https://cache.example/", "https://cache.example/"],
    ["grpc", "https://elsewhere.example/", "DENIED"],
    ["grpc", "file:///etc/passwd", "DENIED"],
  ])("%s %s: %s", (purpose, text, expected) => {
    expect(outcome(text, purpose)).toBe(expected);
  });

  it.each<[UrlPurpose, string, string]>([
    ["nar", "nar/1.nar", "file:///srv/my%20cache/nar/1.nar"],
    ["nar", "nar/../../other/x", "DENIED"],
    ["nar", "nar/%2e%2e/%2E%2e/other/x", "DENIED"],
    ["nar", "..%2fother", "DENIED"],
    ["nar", "nar/%00", "DENIED"],
    ["nar", "/etc/passwd", "DENIED"],
    ["nar", "file:///srv/my%20cache2/x", "DENIED"],
    ["nar", "file://host/srv/my%20cache/x", "DENIED"],
    ["nar", "https://elsewhere.example/1.nar", "DENIED"],
    ["upgrade", "castore/", "file:///srv/my%20cache/castore/"],
    ["upgrade", "https://elsewhere.example/", "DENIED"],
  ])("from a file cache: %s %s: %s", (purpose, text, expected) => {
    expect(outcome(text, purpose, files)).toBe(expected);
  });

  it("a redirect is resolved against the URL that redirects", () => {
    const from = new URL("https://cdn.example/deep/er/file");
    expect(admitUrl("../x", "redirect", policy, from).href).toBe("https://cdn.example/deep/x");
  });
});

describe("addresses", () => {
  it.each([
    ["127.0.0.1", "loopback"],
    ["127.255.1.2", "loopback"],
    ["0.0.0.0", "loopback"],
    ["::1", "loopback"],
    ["::", "loopback"],
    ["::ffff:127.0.0.1", "loopback"],
    ["::ffff:7f00:1", "loopback"],
    ["64:ff9b::127.0.0.1", "loopback"],
    ["2002:7f00:1::", "loopback"],
    ["169.254.169.254", "link-local"],
    ["fe80::1%eth0", "link-local"],
    ["ff02::1", "link-local"],
    ["224.0.0.1", "link-local"],
    ["255.255.255.255", "link-local"],
    ["::ffff:169.254.169.254", "link-local"],
    ["10.1.2.3", "private"],
    ["172.16.0.1", "private"],
    ["172.31.255.255", "private"],
    ["192.168.1.1", "private"],
    ["100.64.0.1", "private"],
    ["198.18.0.1", "private"],
    ["fc00::1", "private"],
    ["fd12:3456::1", "private"],
    ["fec0::1", "private"],
    ["::ffff:10.0.0.1", "private"],
    ["64:ff9b::a00:1", "private"],
    ["64:ff9b:1::1", "private"],
    ["2001:db8::1", "private"],
    ["172.32.0.1", "public"],
    ["100.128.0.1", "public"],
    ["151.101.2.217", "public"],
    ["2a04:4e42::729", "public"],
    ["64:ff9b::9765:2d9", "public"],
    ["::ffff:151.101.2.217", "public"],
  ])("%s is %s", (address, scope) => expect(addressScope(address)).toBe(scope));

  it("what is no address has no scope, except names of this machine", () => {
    expect(() => addressScope("cache.example")).toThrow(RangeError);
    expect(literalScope("cache.example")).toBeUndefined();
    expect(literalScope("[::1]")).toBe("loopback");
    expect(literalScope("x.LOCALHOST.")).toBe("loopback");
  });

  it("a cache leads no nearer to this machine than it is itself", () => {
    expect(isWithinReach("loopback", "public")).toBe(false);
    expect(isWithinReach("private", "public")).toBe(false);
    expect(isWithinReach("link-local", "private")).toBe(false);
    expect(isWithinReach("private", "private")).toBe(true);
    expect(isWithinReach("public", "loopback")).toBe(true);
  });
});
