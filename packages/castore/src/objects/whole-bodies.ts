import type { Duplex } from "node:stream";

/** What undici 7 keeps at a connection, and does not export. */
interface Parser {
  paused: boolean;
  resume(): void;
}

/**
 * Has undici, which is about to be given the connection, pass on what it has read of an answer
 * before it hears that the connection ended. Where a reader is slower than its server, which says
 * "Connection: close", undici 7 throws then, from an event, and ends the process
 * (nodejs/undici#5360; undici 8 does not, and takes Node 22).
 */
export function passWholeBodies(connection: Duplex): void {
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
