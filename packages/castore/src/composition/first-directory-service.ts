import type { DirectoryService } from "../services/directory-service.ts";
import { firstAnswer, rejectWrite } from "./first-of.ts";

/**
 * The directories of several services: the first that has one serves it. One that fails is passed
 * over; in a closure only until it has given the root. Only reads. All stay the caller's.
 */
export function createFirstDirectoryService(
  services: readonly DirectoryService[],
): DirectoryService {
  return {
    get: (digest, options = {}) =>
      firstAnswer(services, options.signal, (service) => service.get(digest, options)),
    async *getClosure(root, options = {}) {
      const closure = await firstAnswer(services, options.signal, async (service) => {
        const directories = service.getClosure(root, options)[Symbol.asyncIterator]();
        const first = await directories.next();
        return first.done === true ? undefined : { first: first.value, directories };
      });
      if (closure === undefined) return;
      try {
        yield closure.first;
        yield* { [Symbol.asyncIterator]: () => closure.directories };
      } finally {
        await closure.directories.return?.();
      }
    },
    putClosure: rejectWrite,
  };
}
