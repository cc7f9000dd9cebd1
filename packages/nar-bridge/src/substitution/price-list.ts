import type { LinkSpeed } from "../upstream/link-meter.ts";

/** A NAR that is no larger as served is fetched as it is: metadata would cost as much. */
export const PLAIN_FILE_BYTES_MAX = 64 * 1024;

/**
 * Times closer than this to the shortest are as good: they are estimates, and a saved byte is one.
 */
const TIE_MS = 20;
const TIE_PART = 0.1;

/** How a NAR came to the client. */
export type NarWay = "local" | "castore" | "grpc" | "plain";

/** chunks: those that are missing; blobs: whole ones; nar: the plain NAR. */
export type OfferKind = "chunks" | "blobs" | "nar";

/** A way to have a path's contents here, and what it takes beyond what is spent already. */
export interface Offer {
  readonly kind: OfferKind;
  /** Bytes on the wire. */
  readonly bytes: number;
  readonly requests: number;
  /** Requests under way at once. */
  readonly parallel: number;
  readonly link: LinkSpeed;
}

/** An offer, and of whom. */
export type NamedOffer = Offer & { readonly server: string };

/**
 * taken, or why not. costlier: more bytes than the plain NAR; slower; larger: not faster, and more
 * bytes.
 */
export type Verdict = "taken" | "costlier" | "slower" | "larger";

/** An offer with its price and what became of it. */
export interface Price extends Offer {
  readonly ms: number;
  readonly verdict: Verdict;
}

/** Milliseconds that an offer takes: bytes / rate + requests × round trip / parallel requests. */
export function offerMs({ bytes, requests, parallel, link }: Offer): number {
  const rounds = requests === 0 ? 0 : Math.max(1, requests / parallel);
  return (bytes * 1000) / link.bytesPerSecond + rounds * link.roundTripMs;
}

/**
 * The prices of `offers`, in their order, one of them taken: of those that cost no more bytes than
 * the plain NAR the fastest, and of those about as fast the one of the fewest bytes, the first of
 * equals. Empty where nothing is offered.
 */
export function priceList<T extends Offer>(
  offers: readonly T[],
): (T & Pick<Price, "ms" | "verdict">)[] {
  const priced = offers.map((offer) => ({ ...offer, ms: offerMs(offer) }));
  const plain = priced.find(({ kind }) => kind === "nar");
  const admitted = priced.filter(({ bytes }) => plain === undefined || bytes <= plain.bytes);
  const fastest = Math.min(...admitted.map(({ ms }) => ms));
  const patience = fastest + Math.max(TIE_MS, fastest * TIE_PART);
  let taken = admitted.find(({ ms }) => ms <= patience);
  for (const price of admitted) {
    if (taken !== undefined && price.ms <= patience && price.bytes < taken.bytes) taken = price;
  }
  const verdictOf = (price: (typeof priced)[number]): Verdict => {
    if (price === taken) return "taken";
    if (!admitted.includes(price)) return "costlier";
    return price.ms > patience ? "slower" : "larger";
  };
  return priced.map((price) => ({ ...price, verdict: verdictOf(price) }));
}
