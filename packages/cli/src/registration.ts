import { rename, writeFile } from "node:fs/promises";
import { CastoreError, type PathComponent } from "@castore/castore";
import { parseStorePath } from "@castore/nar-bridge";
import { type NixDatabaseOptions, registrationOf } from "./nix-database.ts";

/** Writes what `nix-store --load-db` takes: that `names` are valid. The file appears whole. */
export async function writeRegistration(
  file: string,
  names: readonly PathComponent[],
  find: NixDatabaseOptions["find"],
): Promise<void> {
  const records: string[] = [];
  for (const name of names) {
    const narInfo = await find(parseStorePath(name));
    if (narInfo === undefined) throw new CastoreError("INCOMPLETE", `store path ${name}: absent`);
    records.push(registrationOf(narInfo));
  }
  await writeFile(`${file}.new`, records.join(""));
  await rename(`${file}.new`, file);
}
