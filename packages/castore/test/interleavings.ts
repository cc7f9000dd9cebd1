/** A step of an actor: changes the state in place, or returns "blocked" and changes nothing. */
export type Step<S> = (state: S) => "blocked" | undefined;

/** What an actor may do next in `state`; nothing when it has ended. */
export type Actor<S> = (state: S) => readonly Step<S>[];

/**
 * Takes every state that `actors` can reach from `initial`, one step at a time in every order, and
 * calls `check` with each. Returns how many there are. `check` throws where one must not be.
 */
export function explore<S extends object>(
  initial: S,
  actors: readonly Actor<S>[],
  check: (state: S) => void,
): number {
  const seen = new Set<string>([JSON.stringify(initial)]);
  const pending = [...seen];
  for (let text = pending.pop(); text !== undefined; text = pending.pop()) {
    check(JSON.parse(text) as S);
    for (const actor of actors) {
      for (const step of actor(JSON.parse(text) as S)) {
        const next = JSON.parse(text) as S;
        if (step(next) === "blocked") continue;
        const nextText = JSON.stringify(next);
        if (seen.has(nextText)) continue;
        seen.add(nextText);
        pending.push(nextText);
      }
    }
  }
  return seen.size;
}
