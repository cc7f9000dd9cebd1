import cliProgress from "cli-progress";
import { formatBytes } from "./print.ts";

export interface ProgressStep {
  readonly done: number;
  readonly total: number;
  /** Bytes that this step brought. */
  readonly bytes: number;
  /** Bytes of these that did not have to be fetched. */
  readonly saved?: number;
}

export interface Progress extends Disposable {
  update(step: ProgressStep): void;
}

/** A bar on stderr where that is a terminal; nothing elsewhere. */
export function createProgress(title: string): Progress {
  if (!process.stderr.isTTY) return { update() {}, [Symbol.dispose]() {} };
  const bar = new cliProgress.SingleBar({
    format: `${title} {bar} {value}/{total} · {bytes} · {rate}/s · saved {saved} · {eta_formatted}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: false,
  });
  const startMs = Date.now();
  let bytes = 0;
  let saved = 0;
  let isStarted = false;
  return {
    update(step) {
      bytes += step.bytes;
      saved += step.saved ?? 0;
      const seconds = Math.max((Date.now() - startMs) / 1000, 0.1);
      const rate = formatBytes(Math.round(bytes / seconds));
      const payload = { bytes: formatBytes(bytes), rate, saved: formatBytes(saved) };
      if (!isStarted) bar.start(step.total, step.done, payload);
      isStarted = true;
      bar.setTotal(step.total);
      bar.update(step.done, payload);
    },
    [Symbol.dispose]() {
      if (isStarted) bar.stop();
    },
  };
}
