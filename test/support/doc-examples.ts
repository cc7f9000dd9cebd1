import { readFileSync } from "node:fs";

/**
 * The bytes of the fenced block "hex NAME" in a page of docs/: on each line, pairs of hex digits,
 * then, after two spaces at least, what they are.
 */
export function hexExample(page: string, name: string): Buffer {
  const lines = exampleLines(page, `hex ${name}`);
  const hex = lines.map((line) => /^ *((?:(?:[0-9a-f]{2})+ ?)*)(?: .*)?$/.exec(line)?.[1] ?? line);
  const digits = hex.join("").replaceAll(" ", "");
  if (!/^([0-9a-f]{2})+$/.test(digits)) throw new Error(`docs/${page}: example ${name}`);
  return Buffer.from(digits, "hex");
}

/** The lines of the fenced block "LABEL" in a page of docs/. */
export function exampleLines(page: string, label: string): string[] {
  const text = readFileSync(new URL(`../../docs/${page}`, import.meta.url), "utf8");
  const [, block] = text.split(`\n\`\`\`${label}\n`);
  if (block === undefined) throw new Error(`docs/${page} has no example ${label}`);
  return block.slice(0, block.indexOf("\n```")).split("\n");
}

/** The names of all examples on a page. */
export function hexExampleNames(page: string): string[] {
  const text = readFileSync(new URL(`../../docs/${page}`, import.meta.url), "utf8");
  return [...text.matchAll(/^```hex (.*)$/gm)].map(([, name]) => name ?? "");
}
