import { readFileSync } from "node:fs";
import { CastoreError, messageOf } from "@castore/castore";
import type { Command, Option } from "commander";
import { parse, TomlDate, TomlError, type TomlTable, type TomlValue } from "smol-toml";

/**
 * Takes options of `command` from a TOML file: its section is named for the command, its keys are
 * the long options' names, a list for an option that may be given several times. What the command
 * line says comes first. Rejects INVALID and names the file and the key.
 */
export function applyConfigFile(command: Command, path: string): void {
  const section = readSection(path, command.name());
  for (const [key, value] of Object.entries(section)) {
    const option = command.options.find(
      ({ long, negate }) => long === `--${negate ? "no-" : ""}${key}`,
    );
    if (option === undefined || key === "config") {
      throw new CastoreError("INVALID", `${path}: [${command.name()}] has no option "${key}"`);
    }
    const attribute = option.attributeName();
    if (command.getOptionValueSource(attribute) === "cli") continue;
    command.setOptionValueWithSource(
      attribute,
      optionValue({ path, key, option }, value),
      "config",
    );
  }
}

/** Without the text of lines, whose values may be secret. */
function describeFault(text: string, { message, line }: TomlError): string {
  const [, key] = /^\s*([\w."'-]+)\s*=/.exec(text.split("\n")[line - 1] ?? "") ?? [];
  const [what] = message.split("\n");
  return `line ${line}${key === undefined ? "" : `, ${key}`}: ${what}`;
}

/** The commands that take a file. One file may be for all of them. */
const SECTIONS = ["bridge", "serve"];

function readSection(path: string, name: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new CastoreError("INVALID", `${path}: cannot be read: ${String(cause)}`, { cause });
  }
  try {
    const sections = parse(text);
    const unknown = Object.keys(sections).find((key) => !SECTIONS.includes(key));
    if (unknown !== undefined) {
      const message = `"${unknown}" is none of the sections ${SECTIONS.join(", ")}`;
      throw new CastoreError("INVALID", `${path}: ${message}`);
    }
    const section = sections[name] ?? {};
    if (isSection(section)) return { ...section };
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    throw new CastoreError("INVALID", `${path}: ${describeFault(text, cause)}`, { cause });
  }
  throw new CastoreError("INVALID", `${path}: [${name}] must be a section`);
}

function isSection(value: TomlValue): value is TomlTable {
  return typeof value === "object" && !Array.isArray(value) && !(value instanceof TomlDate);
}

interface Setting {
  readonly path: string;
  readonly key: string;
  readonly option: Option;
}

/** `value` as the command line would have given it. */
function optionValue({ path, key, option }: Setting, value: unknown): unknown {
  if (option.isBoolean() || option.negate) {
    if (typeof value === "boolean") return value;
    throw new CastoreError("INVALID", `${path}: ${key} wants true or false`);
  }
  const texts = (Array.isArray(value) ? value : [value]).map((item) => {
    if (typeof item === "string" || typeof item === "number") return String(item);
    throw new CastoreError("INVALID", `${path}: ${key} wants text, a number or a list`);
  });
  let result: unknown;
  for (const text of texts) {
    try {
      result = option.parseArg === undefined ? text : option.parseArg(text, result);
    } catch (cause) {
      const why = messageOf(cause);
      // The parameters of a service URL may be secret.
      const shown = text.replace(/\?.*/s, "?…");
      throw new CastoreError("INVALID", `${path}: ${key} ${shown}: ${why}`, { cause });
    }
  }
  if (Array.isArray(value) && !Array.isArray(result)) {
    throw new CastoreError("INVALID", `${path}: ${key} takes one value, not a list`);
  }
  return result;
}
