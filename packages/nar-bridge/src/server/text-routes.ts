import { digestOf, type LocalStore } from "@castore/castore";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { limitedBody } from "../upstream/http-request.ts";
import { sendBytes } from "./http-reply.ts";

/** Most bytes of a log, a realisation or debug information. */
const TEXT_BYTES_MAX = 64 * 1024 * 1024;

/** What a cache keeps beside store paths, each with its content type. */
const ROUTES = {
  "log/": "text/plain",
  "realisations/": "application/json",
  "build-trace-v2/": "application/json",
  "debuginfo/": "application/json",
} as const;

type Handler = (request: FastifyRequest, reply: FastifyReply) => Promise<void>;

/**
 * Adds GET and PUT of logs, realisations, build traces and debug information, kept as blobs. A log
 * may come compressed (Content-Encoding) and is given out as it came.
 */
export function addTextRoutes(
  server: FastifyInstance,
  put: (url: string, handler: Handler) => void,
  store: LocalStore,
): void {
  for (const [prefix, type] of Object.entries(ROUTES)) {
    const answer: Handler = async (request, reply) => {
      const record = await store.roots.get(textKey(request));
      if (record?.node.type !== "file") return reply.callNotFound();
      const encoding = Buffer.from(record.payload).toString("utf8");
      const headers: Record<string, string | number> = {
        "content-type": type,
        "content-length": record.node.size,
      };
      if (encoding !== "") headers["content-encoding"] = encoding;
      const reader = await store.blobs.open(record.node.digest);
      if (reader === undefined) return reply.callNotFound();
      try {
        if (request.method === "HEAD") await reply.headers(headers).send();
        else await sendBytes(reply, 200, headers, reader.stream());
      } finally {
        await reader.close();
      }
    };
    server.route({ method: ["GET", "HEAD"], url: `/${prefix}*`, handler: answer });
    put(`/${prefix}*`, async (request, reply) => {
      const { digest, size } = await store.blobs.put(limitedBody(request, TEXT_BYTES_MAX));
      const node = { type: "file", digest, size, executable: false } as const;
      const payload = Buffer.from(request.headers["content-encoding"] ?? "");
      await store.roots.put([{ key: textKey(request), node, references: [], payload }]);
      await reply.send("");
    });
  }
}

/** Keys of roots are short: of a long name its hash stands for it. */
function textKey(request: FastifyRequest): string {
  const path = new URL(request.url, "http://localhost").pathname.slice(1);
  return `text:${digestOf(Buffer.from(path))}`;
}
