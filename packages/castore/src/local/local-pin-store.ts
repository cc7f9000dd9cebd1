import { digestBytes } from "../model/digest.ts";
import type { Pin, PinStore } from "../services/pin-store.ts";
import { rootKey } from "./local-root-store.ts";
import type { OpenStore } from "./open-store.ts";
import { decodePin, encodePin } from "./pin-row.ts";
import { visitRows } from "./store-index.ts";

/** The pins of `store`. */
export function createLocalPinStore(store: OpenStore): PinStore {
  return {
    async put(pin) {
      for (const key of pin.keys) rootKey(key);
      const sees = pin.nodes.flatMap((node) =>
        node.type === "symlink"
          ? []
          : [
              {
                rows: node.type === "file" ? ("blobs" as const) : ("directories" as const),
                digest: digestBytes(node.digest),
              },
            ],
      );
      await store.write({ type: "pin", key: rootKey(pin.name), row: encodePin(pin), sees });
    },
    async delete(name) {
      return store.write({ type: "delete-pin", key: rootKey(name) });
    },
    async *list() {
      const pins: Pin[] = [];
      visitRows(store.index.rows.pins, {}, (key, row) => {
        const { holds, ...pin } = decodePin(key.toString("latin1"), row);
        if (holds) pins.push(pin);
        return true;
      });
      yield* pins;
    },
  };
}
