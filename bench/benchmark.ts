/** One way to do the work. Numbers of one name are compared across the cases of a group. */
export interface Case {
  readonly name: string;
  /** One run. Times itself, with `timed`, so that it can prepare and clean up beside. */
  measure(): Promise<Measures>;
}

export type Measures = Readonly<Record<string, number>>;

/** Cases that do the same work; ratios are to the first of them. */
export interface Group {
  readonly name: string;
  readonly cases: readonly Case[];
  /** Highest admissible ratio of the medians of `seconds`, by name of the case. */
  readonly targets?: Readonly<Record<string, number>>;
  /** Highest admissible medians, by name of the case. */
  readonly limits?: Readonly<Record<string, Measures>>;
}

export interface BenchmarkOptions {
  /** Factor of all sizes: 0.01 for a try, 10 for a look at how costs grow. */
  readonly scale: number;
}

export interface Benchmark {
  readonly groups: readonly Group[];
  /** What it ran on: sizes, counts, versions. Goes into the report. */
  readonly corpus: Readonly<Record<string, string | number>>;
  readonly close: () => Promise<void>;
}

export async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

export interface Once<T> {
  (): Promise<T>;
  /** Whether anybody wanted it. */
  isMade(): boolean;
}

/** Makes what several groups share when the first of them wants it. */
export function once<T>(make: () => Promise<T>): Once<T> {
  let made: Promise<T> | undefined;
  const get = () => {
    made ??= make();
    return made;
  };
  return Object.assign(get, { isMade: () => made !== undefined });
}
