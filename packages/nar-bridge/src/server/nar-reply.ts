import { createZstdEncoder } from "@castore/castore";
import type { FastifyReply, FastifyRequest } from "fastify";
import type { ServedNar } from "../substitution/served-nar.ts";
import { parseRange } from "../upstream/http-range.ts";
import { sendBytes } from "./http-reply.ts";

export const NAR_TYPE = "application/x-nix-nar";
/** A NAR named by its content never changes. */
const IMMUTABLE = "public, max-age=31536000, immutable";
/** Fast enough for a link of 1 Gbit/s on one core. */
const ZSTD_LEVEL = 1;

/** Answers a GET or HEAD of a proven NAR: ranges as they are, a whole one as zstd to who asks. */
export async function replyNar(
  request: FastifyRequest,
  reply: FastifyReply,
  nar: ServedNar,
  options: { readonly compress: boolean },
): Promise<void> {
  const headers: Record<string, string | number> = {
    "content-type": NAR_TYPE,
    "cache-control": IMMUTABLE,
    "accept-ranges": "bytes",
    etag: `"${nar.etag}"`,
    vary: "accept-encoding",
  };
  const ifRange = request.headers["if-range"];
  const isSame = ifRange === undefined || ifRange === headers.etag;
  const span = isSame ? parseRange(request.headers.range, nar.size) : undefined;
  if (span === "unsatisfiable") {
    await reply
      .code(416)
      .headers({ "content-range": `bytes */${nar.size}` })
      .send();
    return;
  }
  const { start, end } = span ?? { start: 0, end: nar.size };
  const status = span === undefined ? 200 : 206;
  if (span !== undefined) headers["content-range"] = `bytes ${start}-${end - 1}/${nar.size}`;
  headers["content-length"] = end - start;
  if (request.method === "HEAD") {
    await reply.code(status).headers(headers).send();
    return;
  }
  const bytes = nar.stream(start, end);
  if (options.compress && span === undefined && acceptsZstd(request)) {
    // A compressed body cannot be resumed by range: it must not look as if it could.
    const { "content-length": _length, "accept-ranges": _ranges, ...kept } = headers;
    const encoded = { ...kept, "content-encoding": "zstd" };
    await sendBytes(reply, status, encoded, createZstdEncoder({ level: ZSTD_LEVEL })(bytes));
    return;
  }
  await sendBytes(reply, status, headers, bytes);
}

function acceptsZstd(request: FastifyRequest): boolean {
  const accepted = String(request.headers["accept-encoding"] ?? "");
  return accepted.split(",").some((item) => {
    const [name, ...parameters] = item.split(";").map((part) => part.trim());
    return name === "zstd" && !parameters.some((parameter) => /^q=0(\.0*)?$/.test(parameter));
  });
}
