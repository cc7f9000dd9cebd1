import { readFileSync } from "node:fs";
import { CastoreError } from "@castore/castore";
import type { Command, Option } from "commander";
import { parse, TomlError } from "smol-toml";

/**
 * Takes options of `command` from a TOML file: its section is named for the command, its keys are
 * the long options' names, a list for an option that may be given several times. What the command
 * line says comes first. Rejects INVALID and names the file and the key.
 */
export function applyConfigFile(command: Command, path: string): void {
  const section = readSection(path, command.name());
  for (const [key, value] of Object.entries(section)) {
    const option = command.options.find(
      ({ long }) => long === `--${key}` || long === `--no-${key}`,
    );
    if (option === undefined || key === "config") {
      throw new CastoreError("INVALID", `${path}: [${command.name()}] has no option "${key}"`);
    }
    const attribute = option.attributeName();
    if (command.getOptionValueSource(attribute) === "cli") continue;
    command.setOptionValueWithSource(attribute, optionValue(path, option, value), "config");
  }
}

function readSection(path: string, name: string): Record<string, unknown> {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new CastoreError("INVALID", `${path}: cannot be read: ${String(cause)}`, { cause });
  }
  try {
    const section = parse(text)[name] ?? {};
    if (typeof section === "object" && !Array.isArray(section)) return { ...section };
  } catch (cause) {
    if (!(cause instanceof TomlError)) throw cause;
    throw new CastoreError("INVALID", `${path}: ${cause.message}`, { cause });
  }
  throw new CastoreError("INVALID", `${path}: [${name}] must be a section`);
}

/** `value` as the command line would have given it. */
function optionValue(path: string, option: Option, value: unknown): unknown {
  if (option.isBoolean()) {
    if (typeof value === "boolean") return value;
    throw new CastoreError("INVALID", `${path}: ${option.long} wants true or false`);
  }
  const texts = (Array.isArray(value) ? value : [value]).map((item) => {
    if (typeof item === "string" || typeof item === "number") return String(item);
    throw new CastoreError("INVALID", `${path}: ${option.long} wants text, a number or a list`);
  });
  let result: unknown;
  for (const text of texts) {
    try {
      result = option.parseArg === undefined ? text : option.parseArg(text, result);
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new CastoreError("INVALID", `${path}: ${option.long} ${text}: ${why}`, { cause });
    }
  }
  return result;
}
