import { join } from "node:path";
import { openStoreIndex, type RowsName } from "../src/local/store-index.ts";

/** Flips one bit of the last byte of the row, behind the store's back. */
export async function flipRow(storePath: string, rows: RowsName, key: Uint8Array): Promise<void> {
  await editRow(storePath, rows, key, (row) => {
    row[row.length - 1] = (row.at(-1) ?? 0) ^ 1;
    return row;
  });
}

export async function editRow(
  storePath: string,
  rows: RowsName,
  key: Uint8Array,
  edit: (row: Buffer) => Buffer | undefined,
): Promise<void> {
  const index = openStoreIndex(join(storePath, "index"), {});
  try {
    index.transaction(() => {
      const row = edit(Buffer.from(index.rows[rows].getBinary(key) ?? []));
      if (row === undefined) index.rows[rows].removeSync(key);
      else index.rows[rows].putSync(key, row);
    });
  } finally {
    await index.close();
  }
}
