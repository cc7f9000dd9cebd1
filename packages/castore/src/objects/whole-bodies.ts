import type { Duplex } from "node:stream";
import type { buildConnector } from "undici";

/** What undici 7 keeps at a connection, and does not export. */
interface Parser {
  paused: boolean;
  resume(): void;
}

/**
 * `connect`, of whose connections undici passes on what it has read of an answer before it hears
 * that they ended. Where a reader is slower than its server, which says "Connection: close",
 * undici 7 throws then, from an event, and ends the process (nodejs/undici#5360; undici 8 does not,
 * and takes Node 22).
 */
export function passWholeBodies(connect: buildConnector.connector): buildConnector.connector {
  return (target, callback) =>
    connect(target, (...[error, connection]) => {
      if (error !== null) return callback(error, null);
      flushBeforeEnd(connection);
      return callback(null, connection);
    });
}

function flushBeforeEnd(connection: Duplex): void {
  connection.on("end", () => {
    for (let parser = parserOf(connection); parser?.paused && !connection.destroyed; ) {
      parser.resume();
      parser = parserOf(connection);
    }
  });
  // Nothing more can be passed on: the request fails.
  for (const event of ["error", "close"]) {
    connection.on(event, () => {
      const parser = parserOf(connection);
      if (parser?.paused) parser.paused = false;
    });
  }
}

function parserOf(connection: Duplex): Parser | undefined {
  const symbols = Object.getOwnPropertySymbols(connection);
  const key = symbols.find(({ description }) => description === "parser");
  return (key && Reflect.get(connection, key)) ?? undefined;
}
