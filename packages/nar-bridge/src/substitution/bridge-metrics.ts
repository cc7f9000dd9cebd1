import type { Counter } from "prom-client";
import { promClient } from "../upstream/lazy-modules.ts";
import type { PathCost } from "./path-cost.ts";
import type { NarWay } from "./price-list.ts";

/** What a bridge counts; one registry for each bridge. */
export class BridgeMetrics {
  readonly registry = new (promClient().Registry)();
  /** Answers to clients, by kind of request and status. */
  readonly answers = this.#counter("castore_answers_total", "Answers to clients", [
    "route",
    "status",
  ]);
  readonly upstreamRequests = this.#counter(
    "castore_upstream_requests_total",
    "Requests sent, by host",
    ["host"],
  );
  readonly upstreamBytes = this.#counter(
    "castore_upstream_bytes_total",
    "Bytes of bodies received, before decoding, by host",
    ["host"],
  );
  readonly nars = this.#counter("castore_nars_total", "NARs delivered whole, by way", ["way"]);
  readonly narBytes = this.#counter("castore_nar_bytes_total", "Bytes of NARs delivered, by way", [
    "way",
  ]);
  readonly sourceFailures = this.#counter(
    "castore_source_failures_total",
    "Sources of a NAR that failed or were wrong, by way",
    ["way", "fault"],
  );
  readonly castoreRests = this.#counter(
    "castore_upgrade_rests_total",
    "Times that a castore server was left alone after a failure",
    ["host"],
  );
  readonly chunks = this.#counter("castore_chunks_total", "Chunks used, by where they were", [
    "from",
  ]);
  readonly chunkBytes = this.#counter(
    "castore_chunk_bytes_total",
    "Bytes of chunks used, by where they were",
    ["from"],
  );
  readonly spentRequests = this.#counter(
    "castore_path_requests_total",
    "Requests that stored paths took, by way and by what was asked for",
    ["way", "part"],
  );
  readonly spentBytes = this.#counter(
    "castore_path_bytes_total",
    "Bytes received that stored paths took, by way and by what was asked for",
    ["way", "part"],
  );
  readonly offers = this.#counter(
    "castore_offers_total",
    "Priced ways to paths, by what became of them",
    ["kind", "verdict"],
  );
  readonly narInfoMisses = this.#counter(
    "castore_narinfo_misses_total",
    "Store paths that no upstream had or was trusted for",
    [],
  );
  readonly narsUnderWay = new (promClient().Gauge)({
    name: "castore_nars_under_way",
    help: "NARs being delivered now",
    registers: [this.registry],
  });

  /** Counts what a path that was stored took, as `castore explain` tells it. */
  spent(way: NarWay, { metadata, contents, prices }: PathCost): void {
    for (const [part, { requests, bytes }] of Object.entries({ metadata, contents })) {
      this.spentRequests.inc({ way, part }, requests);
      this.spentBytes.inc({ way, part }, bytes);
    }
    for (const { kind, verdict } of prices) this.offers.inc({ kind, verdict });
  }

  #counter<Label extends string>(name: string, help: string, labelNames: Label[]): Counter<Label> {
    const { Counter } = promClient();
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }
}
