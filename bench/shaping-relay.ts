import { connect, createServer, type Server, type Socket } from "node:net";

export interface LinkOptions {
  /** Of each direction, shared by all connections. Headers below TCP are not counted. */
  readonly bitsPerSecond: number;
  readonly roundTripMs: number;
}

export interface ShapingRelay extends AsyncDisposable {
  /** http://127.0.0.1:PORT in front of the target. */
  readonly url: string;
  readonly connections: number;
  /** Payload that arrived, by direction: `down` is what the target sent. */
  readonly bytesUp: number;
  readonly bytesDown: number;
}

/** What one connection may have under way per direction, like the windows of TCP. */
const FLOW_BYTES_MAX = 2 * 1024 * 1024;
/** Connections take turns by pieces of this size, as behind a fair queue. */
const PIECE_BYTES = 8 * 1024;
/** What is handed to a socket before it has taken the last. */
const WRITE_BYTES_MAX = 256 * 1024;
/** Timers of a busy link are not finer than this: each costs time that the programs need. */
const TICK_MS = 2;
/** How late a timer may be without a busy link losing its rate. */
const LATE_MS = 250;

/**
 * A slow link on loopback, in front of `target` (an http URL): one bucket per direction for all
 * connections, half a round trip of delay each way, one more round trip before a new connection
 * carries its first byte. Not modelled: slow start, loss, queues that delay other connections,
 * TLS handshakes, bytes of headers below TCP.
 */
export async function startShapingRelay(target: string, link: LinkOptions): Promise<ShapingRelay> {
  const { hostname, port } = new URL(target);
  const up = new Direction(link);
  const down = new Direction(link);
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer({ noDelay: true, allowHalfOpen: true }, (near) => {
    connections += 1;
    const far = connect({ host: hostname, port: Number(port), noDelay: true, allowHalfOpen: true });
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", (hadError) => {
        sockets.delete(socket);
        // After an orderly end, what is under way still arrives.
        if (hadError || !socket.readableEnded) other.destroy();
      });
    }
    const opened = setTimeout(() => {
      up.carry(near, far);
      down.carry(far, near);
    }, link.roundTripMs);
    near.once("close", () => clearTimeout(opened));
  });
  const url = await listen(server);
  return {
    url,
    get connections() {
      return connections;
    },
    get bytesUp() {
      return up.bytes;
    },
    get bytesDown() {
      return down.bytes;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the relay has no port");
  return `http://127.0.0.1:${address.port}`;
}

/** One way of the link: grants its time to the flows that have something to send, in turns. */
class Direction {
  bytes = 0;
  readonly #bytesPerMs: number;
  readonly #delayMs: number;
  readonly #waiting: Flow[] = [];
  /** When the link will have sent all that it was given. */
  #freeAt = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor({ bitsPerSecond, roundTripMs }: LinkOptions) {
    this.#bytesPerMs = bitsPerSecond / 8 / 1000;
    this.#delayMs = roundTripMs / 2;
  }

  carry(from: Socket, to: Socket): void {
    const flow = new Flow(from, to);
    const send = (bytes: Buffer | undefined): void => {
      flow.push(bytes);
      if (!this.#waiting.includes(flow)) this.#waiting.push(flow);
      if (this.#timer !== undefined) return;
      this.#freeAt = Math.max(this.#freeAt, performance.now());
      this.#serve();
    };
    from.on("data", send);
    from.on("end", () => send(undefined));
  }

  #serve(): void {
    this.#timer = undefined;
    const now = performance.now();
    this.#freeAt = Math.max(this.#freeAt, now - LATE_MS);
    while (this.#freeAt <= now) {
      const flow = this.#waiting.shift();
      if (flow === undefined) return;
      const piece = flow.take(PIECE_BYTES);
      const size = piece?.byteLength ?? 0;
      this.#freeAt += size / this.#bytesPerMs;
      this.bytes += size;
      flow.deliver(piece, this.#freeAt + this.#delayMs);
      if (flow.isWaiting) this.#waiting.push(flow);
    }
    if (this.#waiting.length === 0) return;
    this.#timer = setTimeout(() => this.#serve(), Math.max(TICK_MS, this.#freeAt - now));
  }
}

/** What one connection sends one way: read, granted by the link, then on its way until due. */
class Flow {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #read: (Buffer | undefined)[] = [];
  readonly #underWay: { piece: Buffer | undefined; at: number }[] = [];
  #bytes = 0;
  #isTimed = false;

  constructor(from: Socket, to: Socket) {
    this.#from = from;
    this.#to = to;
    to.on("drain", () => {
      if (!this.#isTimed) this.#arrive();
    });
  }

  get isWaiting(): boolean {
    return this.#read.length > 0;
  }

  /** `undefined` is the end of the stream. */
  push(bytes: Buffer | undefined): void {
    this.#read.push(bytes);
    this.#bytes += bytes?.byteLength ?? 0;
    if (this.#bytes > FLOW_BYTES_MAX) this.#from.pause();
  }

  take(bytesMax: number): Buffer | undefined {
    const first = this.#read.shift();
    if (first === undefined || first.byteLength <= bytesMax) return first;
    this.#read.unshift(first.subarray(bytesMax));
    return first.subarray(0, bytesMax);
  }

  deliver(piece: Buffer | undefined, at: number): void {
    this.#underWay.push({ piece, at });
    if (!this.#isTimed) this.#arrive();
  }

  #arrive(): void {
    this.#to.cork();
    this.#writeDue();
    this.#to.uncork();
  }

  #writeDue(): void {
    for (let next = this.#underWay[0]; next !== undefined; next = this.#underWay[0]) {
      const waitMs = next.at - performance.now();
      if (waitMs > 0) {
        this.#wait(waitMs);
        return;
      }
      if (this.#to.writableLength > WRITE_BYTES_MAX) return; // until "drain"
      this.#underWay.shift();
      if (next.piece === undefined) {
        this.#to.end();
        return;
      }
      this.#bytes -= next.piece.byteLength;
      if (this.#bytes <= FLOW_BYTES_MAX / 2) this.#from.resume();
      this.#to.write(next.piece);
    }
  }

  /** A timer is up to 2 ms late: too much for a lone answer, so its last millisecond is polled. */
  #wait(waitMs: number): void {
    const arrive = () => {
      this.#isTimed = false;
      this.#arrive();
    };
    this.#isTimed = true;
    const isLone = this.#underWay.length === 1;
    if (isLone && waitMs < 1.5) setImmediate(arrive);
    else setTimeout(arrive, isLone ? waitMs - 1 : Math.max(TICK_MS, waitMs));
  }
}
