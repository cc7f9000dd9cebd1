import { once } from "node:events";
import { type IncomingHttpHeaders, type IncomingMessage, request } from "node:http";

export interface RawAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
  /** Whether all of the body came that the headers promised. */
  readonly isWhole: boolean;
}

export interface RawRequest {
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | AsyncIterable<Uint8Array>;
}

/** One request on a connection of its own, as a client sends it that decodes nothing. */
export async function raw(url: string, options: RawRequest = {}): Promise<RawAnswer> {
  const sent = send(url, options);
  const [response] = (await once(sent, "response")) as [IncomingMessage];
  return await receive(response);
}

/** Its answer's head, once it is there; destroy() makes the client go away. */
export async function open(url: string, options: RawRequest = {}): Promise<IncomingMessage> {
  const [response] = (await once(send(url, options), "response")) as [IncomingMessage];
  return response;
}

export async function receive(response: IncomingMessage): Promise<RawAnswer> {
  const pieces: Buffer[] = [];
  let isWhole = true;
  try {
    for await (const piece of response) pieces.push(piece);
  } catch {
    isWhole = false;
  }
  const { statusCode: status = 0, headers, complete } = response;
  return { status, headers, body: Buffer.concat(pieces), isWhole: isWhole && complete };
}

function send(url: string, { method = "GET", headers = {}, body }: RawRequest) {
  const whole = body instanceof Uint8Array;
  const length = whole ? { "content-length": String(body.byteLength) } : {};
  const sent = request(url, { method, agent: false, headers: { ...length, ...headers } });
  if (body === undefined || whole) sent.end(body);
  else void pump(body, sent);
  return sent;
}

async function pump(body: AsyncIterable<Uint8Array>, sent: ReturnType<typeof request>) {
  for await (const piece of body) {
    if (sent.destroyed) return;
    if (!sent.write(piece)) await Promise.race([once(sent, "drain"), once(sent, "close")]);
  }
  sent.end();
}
