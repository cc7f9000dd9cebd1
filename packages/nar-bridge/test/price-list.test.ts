import { describe, expect, test } from "vitest";
import { type Offer, offerMs, priceList } from "../src/substitution/price-list.ts";
import { LinkMeter, ORDINARY_LINK } from "../src/upstream/link-meter.ts";

const MB = 1_000_000;
const FAR = { bytesPerSecond: 10 * MB, roundTripMs: 200 };

function offer(kind: Offer["kind"], bytes: number, requests: number, more: Partial<Offer> = {}) {
  return { kind, bytes, requests, parallel: 4, link: ORDINARY_LINK, ...more };
}

const nar = (bytes: number, more: Partial<Offer> = {}) =>
  offer("nar", bytes, 1, { parallel: 1, ...more });

function verdicts(offers: readonly Offer[]): string[] {
  return priceList(offers).map(({ kind, verdict }) => `${kind} ${verdict}`);
}

describe("a price", () => {
  test("is bytes by rate, and round trips shared by parallel requests", () => {
    expect(offerMs(offer("chunks", 5 * MB, 40, { parallel: 8, link: FAR }))).toBe(500 + 1_000);
    expect(offerMs(nar(5 * MB, { link: FAR }))).toBe(500 + 200);
  });

  test("has one whole round trip at least, and none where nothing is fetched", () => {
    expect(offerMs(offer("chunks", 0, 1, { link: FAR }))).toBe(200);
    expect(offerMs(offer("chunks", 0, 0, { link: FAR }))).toBe(0);
  });
});

describe("a price list", () => {
  test("takes missing chunks where they are a part of the NAR", () => {
    expect(verdicts([offer("chunks", MB, 1), nar(5 * MB)])).toEqual(["chunks taken", "nar slower"]);
  });

  test("never takes what costs more bytes than the plain NAR, however fast", () => {
    const near = { bytesPerSecond: 1_000 * MB, roundTripMs: 0 };
    const offers = [offer("chunks", 5 * MB + 1, 1, { link: near }), nar(5 * MB, { link: FAR })];
    expect(verdicts(offers)).toEqual(["chunks costlier", "nar taken"]);
    expect(verdicts([offer("chunks", 5 * MB, 1, { link: near }), nar(5 * MB)])).toEqual([
      "chunks taken",
      "nar slower",
    ]);
  });

  test("takes the plain NAR where many requests take longer than the bytes they save", () => {
    const chunks = offer("chunks", 4 * MB, 2_000, { parallel: 8, link: FAR });
    expect(verdicts([chunks, nar(5 * MB, { link: FAR })])).toEqual(["chunks slower", "nar taken"]);
  });

  test("takes fewer bytes where the times are about the same", () => {
    const chunks = offer("chunks", 4.99 * MB, 1);
    expect(verdicts([nar(5 * MB), chunks])).toEqual(["nar larger", "chunks taken"]);
    expect(verdicts([chunks, offer("blobs", 4.99 * MB, 1), nar(5 * MB)])).toEqual([
      "chunks taken",
      "blobs larger",
      "nar larger",
    ]);
  });

  test("takes whole blobs where each chunk would be a round trip", () => {
    const chunks = offer("chunks", 4 * MB, 400, { parallel: 8, link: FAR });
    const blobs = offer("blobs", 4.5 * MB, 10, { parallel: 8, link: FAR });
    const all = [chunks, blobs, nar(20 * MB, { link: FAR })];
    expect(verdicts(all)).toEqual(["chunks slower", "blobs taken", "nar slower"]);
  });

  test("takes the only offer, and nothing of none", () => {
    expect(verdicts([offer("chunks", 9 * MB, 9)])).toEqual(["chunks taken"]);
    expect(priceList([])).toEqual([]);
  });
});

describe("a link's meter", () => {
  function start() {
    const clock = { ms: 0 };
    return { clock, meter: new LinkMeter(() => clock.ms) };
  }

  test("assumes an ordinary link before anything passed", () => {
    expect(start().meter.speed).toEqual(ORDINARY_LINK);
  });

  test("takes the shortest of the latest round trips, half of one that connects", () => {
    const { meter } = start();
    meter.answered(300, "new");
    expect(meter.speed.roundTripMs).toBe(150);
    meter.answered(40, "kept");
    meter.answered(900, "kept");
    expect(meter.speed.roundTripMs).toBe(40);
    for (let i = 0; i < 64; i++) meter.answered(70, "kept");
    expect(meter.speed.roundTripMs).toBe(70);
  });

  test("counts bodies that come at once together, and takes the highest rate", () => {
    const { meter, clock } = start();
    meter.bodyStarts();
    meter.bodyStarts();
    for (const body of [1, 2]) {
      clock.ms += 50;
      meter.received(500_000);
      if (body === 2) meter.bodyEnds();
    }
    meter.bodyEnds();
    expect(meter.speed.bytesPerSecond).toBe(10 * MB);
    meter.bodyStarts();
    clock.ms += 1_000;
    meter.received(100_000);
    meter.bodyEnds();
    expect(meter.speed.bytesPerSecond).toBe(10 * MB);
  });

  test("takes no rate from a body of a few packets, nor from the time between bodies", () => {
    const { meter, clock } = start();
    meter.bodyStarts();
    meter.received(60_000);
    meter.bodyEnds();
    expect(meter.speed.bytesPerSecond).toBe(ORDINARY_LINK.bytesPerSecond);
    clock.ms += 10_000;
    meter.bodyStarts();
    clock.ms += 100;
    meter.received(200_000);
    meter.bodyEnds();
    expect(meter.speed.bytesPerSecond).toBe(2 * MB);
  });
});
