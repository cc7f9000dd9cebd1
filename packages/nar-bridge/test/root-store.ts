import type { LocalStore, RootRecord, TableRow } from "@castore/castore";

type Row = TableRow & { readonly key: string };

/** The part of a LocalStore that path infos need, in memory. */
export function createMemoryRoots() {
  const records = new Map<string, RootRecord>();
  const tables = new Map<string, Map<string, Row>>();
  const touched: string[] = [];
  const store: Pick<LocalStore, "roots" | "table"> = {
    roots: {
      get: async (key) => records.get(key),
      async put(all) {
        for (const record of all) records.set(record.key, record);
      },
      touch: (key) => void touched.push(key),
      delete: async (key) => records.delete(key),
      async *list() {
        yield* [...records.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
      },
    },
    table(name) {
      const rows = tables.get(name) ?? new Map<string, Row>();
      tables.set(name, rows);
      return {
        get: (key) => rows.get(key),
        async put(all) {
          for (const row of all) rows.set(row.key, row);
        },
        delete: async (key) => rows.delete(key),
        async *list() {
          yield* rows.values();
        },
      };
    },
  };
  return { store, touched };
}
