import { connect } from "node:net";

/** One request, as it goes over the wire. */
export interface WireRequest {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Buffer;
}

export interface LoadResult {
  readonly bytes: number;
}

const BUFFER_BYTES = 1 << 18;
/** What a slow client takes, and how often. */
const SLOW_BYTES = 1 << 16;
const SLOW_MS = 500;

/**
 * Sends `requests` to an http origin one after another, each over a connection of its own, and
 * throws the answers away: it costs a tenth of what any server does. A slow client takes 128 KiB a
 * second; it stops, as all do, when `signal` ends. Rejects unless every status is 200.
 */
export async function runClient(
  origin: string,
  requests: Iterable<WireRequest>,
  options: { readonly isSlow?: boolean; readonly signal?: AbortSignal } = {},
): Promise<LoadResult> {
  let bytes = 0;
  for (const request of requests) {
    if (options.signal?.aborted) break;
    bytes += await send(new URL(origin), request, options);
  }
  return { bytes };
}

/** Resolves with the bytes of the answer, headers included. */
function send(
  { hostname, port }: URL,
  { method, path, headers = {}, body }: WireRequest,
  { isSlow, signal }: { readonly isSlow?: boolean; readonly signal?: AbortSignal },
): Promise<number> {
  return new Promise((resolve, reject) => {
    let bytes = 0;
    let sinceWait = 0;
    const buffer = Buffer.allocUnsafe(isSlow ? SLOW_BYTES : BUFFER_BYTES);
    const socket = connect({
      ...{ host: hostname, port: Number(port) },
      onread: {
        buffer,
        callback(size) {
          if (bytes === 0 && !/^HTTP\/1\.1 200 /.test(buffer.toString("latin1", 0, 13))) {
            socket.destroy(new Error(`${method} ${path}: ${buffer.toString("latin1", 0, 30)}`));
          }
          bytes += size;
          sinceWait += size;
          if (!isSlow || sinceWait < SLOW_BYTES) return true;
          sinceWait = 0;
          setTimeout(() => socket.resume(), SLOW_MS);
          return false;
        },
      },
    });
    const stop = () => socket.destroy();
    signal?.addEventListener("abort", stop, { once: true });
    socket.once("error", reject);
    socket.once("close", () => {
      signal?.removeEventListener("abort", stop);
      resolve(bytes);
    });
    const length: Record<string, string> = body ? { "content-length": `${body.byteLength}` } : {};
    const fields = { host: `${hostname}:${port}`, connection: "close", ...headers, ...length };
    const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
    socket.write(`${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`);
    if (body !== undefined) socket.write(body);
  });
}
