import { formatTouch, type Touch } from "@castore/fuse";

/**
 * What traces of boots touched, each piece once: files in the order in which they were first
 * touched, the pieces of each together. Pieces closer than `gapBytes` become one.
 */
export function mergeTraces(traces: Iterable<readonly Touch[]>, gapBytes: number): Touch[] {
  const byPath = new Map<string, Touch[]>();
  for (const touches of traces) {
    for (const touch of touches) {
      const path = touch.path.join("/");
      const known = byPath.get(path);
      if (known === undefined) byPath.set(path, [touch]);
      else known.push(touch);
    }
  }
  return [...byPath.values()].flatMap((touches) => mergePieces(touches, gapBytes));
}

function mergePieces(touches: readonly Touch[], gapBytes: number): Touch[] {
  const merged: { -readonly [key in keyof Touch]: Touch[key] }[] = [];
  for (const touch of [...touches].sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1);
    if (last === undefined || touch.start > last.end + gapBytes) merged.push({ ...touch });
    else last.end = Math.max(last.end, touch.end);
  }
  return merged;
}

export function formatTrace(touches: readonly Touch[]): string {
  return touches.map((touch) => `${formatTouch(touch)}\n`).join("");
}
