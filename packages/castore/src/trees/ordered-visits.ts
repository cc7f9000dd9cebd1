/** The place of one visit among others. */
export interface Turn {
  /** Resolves once all that came before has ended. */
  readonly begun: Promise<void>;
  /** Lets the next one begin, now or when this turn comes. Idempotent. */
  end(): void;
}

interface Waiting {
  readonly begin: () => void;
  /** Whether others wait until it has ended. */
  readonly lasts: boolean;
}

/** Lets visits take place in the order in which they were announced, some of which take time. */
export class OrderedVisits {
  readonly #waiting: Waiting[] = [];
  #isBusy = false;

  /** Calls `visit` in its turn: at once if nothing waits, and returns undefined then. */
  visit(visit: () => void): Promise<void> | undefined {
    if (!this.#isBusy) {
      visit();
      return undefined;
    }
    return new Promise((resolve, reject) => {
      const begin = (): void => {
        try {
          resolve(visit());
        } catch (error) {
          reject(error);
        }
      };
      this.#waiting.push({ begin, lasts: false });
    });
  }

  /** A turn that lasts until it is ended. */
  turn(): Turn {
    let hasBegun = false;
    let hasEnded = false;
    const end = (): void => {
      if (hasEnded) return;
      hasEnded = true;
      if (hasBegun) this.#goOn();
    };
    const begun = new Promise<void>((resolve) => {
      const begin = (): void => {
        hasBegun = true;
        resolve();
        if (hasEnded) this.#goOn();
      };
      if (this.#isBusy) this.#waiting.push({ begin, lasts: true });
      else {
        this.#isBusy = true;
        begin();
      }
    });
    return { begun, end };
  }

  #goOn(): void {
    this.#isBusy = false;
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      this.#isBusy = next.lasts;
      next.begin();
      if (this.#isBusy || next.lasts) return;
    }
  }
}
