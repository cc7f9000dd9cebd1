import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { CastoreError, systemCodeOf } from "../castore-error.ts";
import type { AwsCredentials } from "./aws-signature.ts";

/** What AWS's files and environment say. */
export interface AwsSettings {
  readonly credentials?: AwsCredentials | undefined;
  readonly region?: string | undefined;
  readonly endpoint?: string | undefined;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The settings of `profile`, or without one those of the environment (AWS_ACCESS_KEY_ID, …), then
 * of AWS_PROFILE or "default" in AWS's files. Rejects INVALID where a profile that was asked for
 * is in neither file. Without any credentials requests go unsigned.
 */
export async function readAwsSettings(
  profile: string | undefined,
  env: Environment = process.env,
): Promise<AwsSettings> {
  const name = profile ?? env.AWS_PROFILE ?? "default";
  const home = join(env.HOME ?? homedir(), ".aws");
  const credentialsPath = env.AWS_SHARED_CREDENTIALS_FILE ?? join(home, "credentials");
  const configPath = env.AWS_CONFIG_FILE ?? join(home, "config");
  const secrets = (await readSections(credentialsPath)).get(name);
  const sections = await readSections(configPath);
  const config = sections.get(name === "default" ? name : `profile ${name}`);
  if (profile !== undefined && secrets === undefined && config === undefined) {
    throw new CastoreError("INVALID", `AWS profile ${profile}: not in ${credentialsPath}`);
  }
  const file = new Map([...(config ?? []), ...(secrets ?? [])]);
  const environment = profile === undefined ? credentialsOf((key) => env[key.toUpperCase()]) : null;
  return {
    credentials: environment ?? credentialsOf((key) => file.get(key)),
    region: env.AWS_REGION ?? env.AWS_DEFAULT_REGION ?? file.get("region"),
    endpoint: env.AWS_ENDPOINT_URL_S3 ?? env.AWS_ENDPOINT_URL ?? file.get("endpoint_url"),
  };
}

/** The credentials that `get` has under AWS's usual names in lower case. */
export function credentialsOf(
  get: (name: string) => string | undefined,
): AwsCredentials | undefined {
  const accessKeyId = get("aws_access_key_id");
  const secretAccessKey = get("aws_secret_access_key");
  if (accessKeyId === undefined || secretAccessKey === undefined) return undefined;
  return { accessKeyId, secretAccessKey, sessionToken: get("aws_session_token") };
}

/** The sections of an INI file by name; none where the file is missing. */
async function readSections(path: string): Promise<Map<string, Map<string, string>>> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    if (systemCodeOf(error) === "ENOENT") return "";
    throw new CastoreError("INVALID", `AWS file ${path}: cannot be read`, { cause: error });
  });
  const sections = new Map<string, Map<string, string>>();
  let section = new Map<string, string>();
  for (const line of text.split(/\r?\n/)) {
    const header = /^\[\s*(.*?)\s*\]\s*$/.exec(line);
    const pair = /^([^\s#;=][^=]*?)\s*=\s*(.*?)\s*$/.exec(line);
    if (header?.[1] !== undefined) {
      section = sections.get(header[1]) ?? new Map();
      sections.set(header[1], section);
    } else if (pair?.[1] !== undefined && pair[2] !== undefined) {
      section.set(pair[1], pair[2]);
    }
  }
  return sections;
}
