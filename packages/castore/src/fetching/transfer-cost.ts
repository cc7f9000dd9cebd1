/** Counts what something cost on the wire; whoever sends requests for it adds to it. */
export interface TransferCost {
  requests: number;
  /** Bytes of the answers' bodies, as they came. */
  bytes: number;
}

export function createTransferCost(): TransferCost {
  return { requests: 0, bytes: 0 };
}
