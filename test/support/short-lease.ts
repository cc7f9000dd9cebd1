import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";

/** Makes the leases of QEMU's DHCP server short. Disposal closes it. */
export interface ShortLease extends AsyncDisposable {
  readonly qemuArgs: readonly string[];
  /** How often an address was given, or given again. */
  readonly acknowledgements: number;
}

const IPV4 = 0x0800;
const UDP = 17;
const DHCP_CLIENT = 68;
const COOKIE = 0x6382_5363;
/** Offsets in DHCP's part of a frame. */
const COOKIE_AT = 236;
const OPTIONS_AT = 240;
const LEASE_TIME = 51;
const MESSAGE_TYPE = 53;
const ACKNOWLEDGEMENT = 5;
const END = 255;

/** Stands between QEMU's user network and the machine; its sockets lie in `directory`. */
export async function startShortLease(directory: string, seconds: number): Promise<ShortLease> {
  const paths = { out: join(directory, "frames-out"), in: join(directory, "frames-in") };
  const sockets: Socket[] = [];
  const state = { acknowledgements: 0 };
  const toMachine = listen(paths.in, sockets);
  const fromNetwork = listen(paths.out, sockets);
  const servers = [toMachine, fromNetwork];
  await Promise.all(servers.map((server) => once(server, "listening")));
  const target = once(toMachine, "connection") as Promise<[Socket]>;
  target.catch(() => {});
  fromNetwork.on("connection", (source) => {
    void pass(source, target, (frame) => {
      if (shorten(frame, seconds) === ACKNOWLEDGEMENT) state.acknowledgements++;
    });
  });
  return {
    qemuArgs: [
      ...["-chardev", `socket,id=frames-out,path=${paths.out}`],
      ...["-chardev", `socket,id=frames-in,path=${paths.in}`],
      "-object",
      "filter-redirector,id=lease,netdev=net,queue=tx,outdev=frames-out,indev=frames-in",
    ],
    get acknowledgements() {
      return state.acknowledgements;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise((end) => server.close(end))));
    },
  };
}

function listen(path: string, sockets: Socket[]): Server {
  return createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
  }).listen(path);
}

/** Frames come and go with their length before them. */
async function pass(
  source: Socket,
  target: Promise<[Socket]>,
  change: (frame: Buffer) => void,
): Promise<void> {
  const [machine] = await target;
  let rest = Buffer.alloc(0);
  source.on("data", (data: Buffer) => {
    rest = Buffer.concat([rest, data]);
    let at = 0;
    while (rest.length >= at + 4 && rest.length >= at + 4 + rest.readUInt32BE(at)) {
      const end = at + 4 + rest.readUInt32BE(at);
      change(rest.subarray(at + 4, end));
      at = end;
    }
    machine.write(rest.subarray(0, at));
    rest = rest.subarray(at);
  });
}

/** Sets the time of a lease in an answer of DHCP; returns the kind of the answer. */
function shorten(frame: Buffer, seconds: number): number | undefined {
  if (frame.length < 42 || frame.readUInt16BE(12) !== IPV4 || frame[23] !== UDP) return undefined;
  const udp = 14 + ((frame[14] ?? 0) & 15) * 4;
  const dhcp = udp + 8;
  if (frame.length < dhcp + OPTIONS_AT || frame.readUInt16BE(udp + 2) !== DHCP_CLIENT) {
    return undefined;
  }
  if (frame.readUInt32BE(dhcp + COOKIE_AT) !== COOKIE) return undefined;
  let kind: number | undefined;
  for (let at = dhcp + OPTIONS_AT; at + 1 < frame.length && frame[at] !== END; ) {
    const [option, length] = [frame[at], frame[at + 1] ?? 0];
    if (option === LEASE_TIME) frame.writeUInt32BE(seconds, at + 2);
    if (option === MESSAGE_TYPE) kind = frame[at + 2];
    at += option === 0 ? 1 : 2 + length;
  }
  frame.writeUInt16BE(0, udp + 6); // no checksum
  return kind;
}
