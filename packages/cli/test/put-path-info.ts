import { parseEntryText } from "@castore/castore";
import {
  NIX_STORE_DIR,
  openPathInfoService,
  parseAbsoluteStorePath,
  parseNarHash,
  parsePathInfoServiceUrl,
} from "@castore/nar-bridge";

/** What `castore import` prints of a path. */
export interface Imported {
  readonly entry: string;
  readonly narHash: string;
  readonly narSize: number;
}

/** Stores at the service URL `url` that `storePath` is what was imported. */
export async function putPathInfo(
  url: string,
  storePath: string,
  { entry, narHash, narSize }: Imported,
): Promise<void> {
  const parsed = parsePathInfoServiceUrl(url);
  if (parsed.type === "binary-cache") throw new Error(`${url}: only reads`);
  await using opened = await openPathInfoService(parsed);
  await opened.service.put({
    storePath: parseAbsoluteStorePath(storePath),
    storeDir: NIX_STORE_DIR,
    node: parseEntryText(entry),
    narHash: parseNarHash(narHash),
    narSize,
    references: [],
    deriver: undefined,
    ca: undefined,
    signatures: [],
    rootSignatures: [],
  });
}
