/**
 * koffi, which calls functions of C libraries; undefined where it has no binary for this machine.
 * The only place that imports it.
 */
export async function loadKoffi() {
  try {
    return (await import("koffi")).default;
  } catch {
    return undefined; // an optional binary that is not there: callers say what is lost
  }
}
