/** Longest that a server may take to end after SIGTERM. */
const STOP_MS_MAX = 1_500;

/** One line for the operator, on stderr. */
export function logLine(line: string): void {
  process.stderr.write(`${new Date().toISOString()} ${line}\n`);
}

/**
 * Runs `server` until SIGTERM or SIGINT: prints the ready line on stdout once it listens, and ends
 * it cleanly within STOP_MS_MAX.
 */
export async function runServer(
  name: "bridge" | "serve" | "netboot serve",
  server: { close(): Promise<void> },
  start: () => Promise<string>,
): Promise<void> {
  const stopped = new Promise<void>((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
  const address = await start();
  process.stdout.write(`castore ${name} listening on ${address}\n`);
  await stopped;
  // What does not end in time is cut: nothing unproven is visible, and nothing else is lost.
  setTimeout(() => process.exit(0), STOP_MS_MAX).unref();
  await server.close();
}
