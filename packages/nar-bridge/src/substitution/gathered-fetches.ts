import { setImmediate } from "node:timers/promises";
import type { ChunkMeta, ChunkPlan } from "@castore/castore";
import type { CastoreWay } from "./castore-way.ts";

interface Want {
  readonly chunks: readonly ChunkMeta[];
  readonly work: (plan: ChunkPlan) => Promise<void>;
}

/** Lets what wants chunks at the same time ask for them together. */
export class GatheredFetches {
  #wants = new Map<CastoreWay, Want[]>();
  #isScheduled = false;

  /** Does `work` with a plan of at least these chunks; rejects as `work` does. */
  run<T>(
    way: CastoreWay,
    chunks: readonly ChunkMeta[],
    work: (plan: ChunkPlan) => Promise<T>,
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      const wants = this.#wants.get(way) ?? [];
      this.#wants.set(way, wants);
      wants.push({ chunks, work: (plan) => work(plan).then(resolve, reject) });
      if (this.#isScheduled) return;
      this.#isScheduled = true;
      void setImmediate().then(() => this.#send());
    });
  }

  #send(): void {
    const all = this.#wants;
    this.#wants = new Map();
    this.#isScheduled = false;
    for (const [way, wants] of all) void this.#fetch(way, wants);
  }

  async #fetch(way: CastoreWay, wants: readonly Want[]): Promise<void> {
    using plan = way.fetcher.plan(wants.flatMap(({ chunks }) => chunks));
    await Promise.all(wants.map(({ work }) => work(plan)));
  }
}
