import { afterEach } from "vitest";

/** A function that opens resources for one test, after which they are closed, the last first. */
export function closeAfterEach(): <T extends AsyncDisposable>(starting: Promise<T>) => Promise<T> {
  const opened: AsyncDisposable[] = [];
  afterEach(async () => {
    for (const resource of opened.splice(0).reverse()) await resource[Symbol.asyncDispose]();
  });
  return async (starting) => {
    const resource = await starting;
    opened.push(resource);
    return resource;
  };
}
