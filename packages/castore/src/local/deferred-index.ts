import { CastoreError } from "../castore-error.ts";
import { eachTable, type Rows, type StoreIndex } from "./store-index.ts";

/**
 * The index of a store that is new and of this process alone: the first transaction opens it, and
 * `onOpened` is called; until then there are no rows.
 */
export function deferIndex(open: () => StoreIndex, onOpened: () => void): StoreIndex {
  let opened: StoreIndex | undefined;
  return {
    get rows() {
      return opened?.rows ?? NO_TABLES;
    },
    transaction(action, roomBytes) {
      if (opened === undefined) {
        opened = open();
        onOpened();
      }
      return opened.transaction(action, roomBytes);
    },
    refresh() {
      opened?.refresh();
    },
    async close() {
      await opened?.close();
    },
  };
}

const NO_ROWS: Rows = {
  doesExist: () => false,
  getBinary: () => undefined,
  getBinaryFast: () => undefined,
  getCount: () => 0,
  getKeys: () => [],
  getKeysCount: () => 0,
  getRange: () => [],
  putSync: writeOutside,
  removeSync: writeOutside,
};

const NO_TABLES = eachTable(() => NO_ROWS);

function writeOutside(): never {
  throw new CastoreError("INVALID", "index: a write outside a transaction");
}
