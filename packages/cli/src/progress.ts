import cliProgress from "cli-progress";
import { formatBytes } from "./print.ts";

export interface ProgressState {
  readonly done: number;
  readonly total: number;
  /** Bytes brought so far, and how many of them did not have to be fetched. */
  readonly bytes: number;
  readonly saved: number;
}

export interface Progress extends Disposable {
  /** Whether there is a bar, so that nothing else should write to the terminal. */
  readonly isShown: boolean;
  update(state: ProgressState): void;
}

/** A bar on stderr where that is a terminal; nothing elsewhere. */
export function createProgress(title: string): Progress {
  if (!process.stderr.isTTY) return { isShown: false, update() {}, [Symbol.dispose]() {} };
  const bar = new cliProgress.SingleBar({
    format: `${title} {bar} {value}/{total} · {bytes} · {rate}/s · saved {saved} · {eta_formatted}`,
    stream: process.stderr,
    hideCursor: true,
  });
  const startMs = performance.now();
  let isStarted = false;
  return {
    isShown: true,
    update({ done, total, bytes, saved }) {
      const seconds = Math.max((performance.now() - startMs) / 1000, 0.1);
      const rate = formatBytes(Math.round(bytes / seconds));
      const payload = { bytes: formatBytes(bytes), rate, saved: formatBytes(saved) };
      if (!isStarted) bar.start(total, done, payload);
      isStarted = true;
      bar.setTotal(total);
      bar.update(done, payload);
    },
    [Symbol.dispose]() {
      if (isStarted) bar.stop();
    },
  };
}

export interface ByteProgress extends Disposable {
  /** `bytes` of `bytesTotal` are done; what `title` says may change. */
  update(title: string, step: { readonly bytes: number; readonly bytesTotal: number }): void;
}

/** As `createProgress`, for work of which the bytes are known beforehand. */
export function createByteProgress(): ByteProgress {
  if (!process.stderr.isTTY) return { update() {}, [Symbol.dispose]() {} };
  const bar = new cliProgress.SingleBar({
    format: "{title} {bar} {percentage} % · {done} of {all} · {eta_formatted} left",
    stream: process.stderr,
    hideCursor: true,
    etaBuffer: 200,
  });
  let isStarted = false;
  return {
    update(title, { bytes, bytesTotal }) {
      const payload = { title, done: formatBytes(bytes), all: formatBytes(bytesTotal) };
      if (!isStarted) bar.start(bytesTotal, bytes, payload);
      isStarted = true;
      if (bar.getTotal() !== bytesTotal) bar.setTotal(bytesTotal);
      bar.update(bytes, payload);
    },
    [Symbol.dispose]() {
      if (isStarted) bar.stop();
      isStarted = false;
    },
  };
}

/** As `createProgress`, for bytes of which the end is not known; `add` counts them. */
export function createRateProgress(title: string): { add(bytes: number): void } & Disposable {
  if (!process.stderr.isTTY) return { add() {}, [Symbol.dispose]() {} };
  const format = `${title} {bytes} · {rate}/s`;
  const bar = new cliProgress.SingleBar({ format, stream: process.stderr, hideCursor: true });
  const startMs = Date.now();
  let bytes = 0;
  const payload = () => {
    const seconds = Math.max((Date.now() - startMs) / 1000, 0.1);
    return { bytes: formatBytes(bytes), rate: formatBytes(Math.round(bytes / seconds)) };
  };
  bar.start(0, 0, payload());
  return {
    add(more) {
      bytes += more;
      bar.update(0, payload());
    },
    [Symbol.dispose]() {
      bar.stop();
    },
  };
}
