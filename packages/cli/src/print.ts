import { formatEntryText, type Node } from "@castore/castore";

/** A node as JSON output shows it. */
export function nodeJson(node: Node): Readonly<Record<string, unknown>> {
  if (node.type === "symlink") return { type: node.type, target: node.target };
  const { type, digest, size } = node;
  return type === "file"
    ? { type, digest, size, executable: node.executable }
    : { type, digest, size };
}

/** One line of JSON on stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

/** What `import` prints of each path. */
export function printImported(
  path: string,
  node: Node,
  nar: { readonly narHash: string; readonly narSize: number },
): void {
  const { narHash, narSize } = nar;
  printJson({ path, entry: formatEntryText(node), node: nodeJson(node), narHash, narSize });
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** `bytes` for people: three digits and a unit. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value < 10 ? 2 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}
