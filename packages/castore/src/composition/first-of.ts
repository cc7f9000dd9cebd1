import { CastoreError } from "../castore-error.ts";

/**
 * Asks `sources` one after the other, by `ask`, until one answers. One that fails is passed over;
 * where none answers, the first failure counts, since absence is then not known.
 */
export async function firstAnswer<S, V>(
  sources: readonly S[],
  signal: AbortSignal | undefined,
  ask: (source: S) => Promise<V | undefined>,
): Promise<V | undefined> {
  const failures: unknown[] = [];
  for (const source of sources) {
    signal?.throwIfAborted();
    try {
      const answer = await ask(source);
      if (answer !== undefined) return answer;
    } catch (error) {
      signal?.throwIfAborted();
      // A bug is not a reason to ask somebody else.
      if (!(error instanceof CastoreError)) throw error;
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
  return undefined;
}

/** What a service made of several answers to a write. */
export async function rejectWrite(): Promise<never> {
  throw new CastoreError("READ_ONLY", "several stores in one are only read: write to one of them");
}
