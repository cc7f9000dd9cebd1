import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";

/** What the browser tells about a page. */
interface Answer {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

export interface ChromiumOptions {
  readonly width?: number;
  readonly height?: number;
  readonly colorScheme?: "light" | "dark";
  /** The one host that pages may reach. */
  readonly host?: string;
}

/**
 * Debian's Chromium without a screen, spoken to over its debugging pipe: one page. Disposal kills
 * it. It resolves no host name but the one that is allowed, so that a page can reach nothing else.
 */
export class Chromium implements AsyncDisposable {
  /** Exceptions, console errors and violations of the page's policy, as they come. */
  readonly complaints: string[] = [];
  /** URLs that were asked for, of all kinds. */
  readonly requests: string[] = [];
  readonly #child: ChildProcess;
  readonly #home: string;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  readonly #listeners = new Map<string, () => void>();
  #session: string | undefined;
  #sent = 0;

  static async start(options: ChromiumOptions = {}): Promise<Chromium> {
    const { width = 1100, height = 900, colorScheme = "light" } = options;
    const chromium = new Chromium(options.host);
    const { targetId } = await chromium.#call("Target.createTarget", { url: "about:blank" });
    const attached = await chromium.#call("Target.attachToTarget", { targetId, flatten: true });
    chromium.#session = String(attached.sessionId);
    for (const domain of ["Page", "Runtime", "Network", "Log"]) {
      await chromium.#call(`${domain}.enable`);
    }
    const screen = { width, height, deviceScaleFactor: 1, mobile: false };
    await chromium.#call("Emulation.setDeviceMetricsOverride", screen);
    const features = [{ name: "prefers-color-scheme", value: colorScheme }];
    await chromium.#call("Emulation.setEmulatedMedia", { features });
    return chromium;
  }

  private constructor(host: string | undefined) {
    const rules = `MAP * ~NOTFOUND${host === undefined ? "" : `, EXCLUDE ${host}`}`;
    this.#home = mkdtempSync(join(tmpdir(), "castore-chromium-"));
    const flags = [
      ...["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
      ...["--remote-debugging-pipe", "--no-first-run", "--disable-background-networking"],
      ...[`--host-resolver-rules=${rules}`, `--user-data-dir=${this.#home}`],
    ];
    this.#child = spawn("chromium", [...flags, "about:blank"], {
      stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
      detached: true,
      env: { PATH: process.env.PATH, HOME: this.#home, TMPDIR: this.#home },
    });
    this.#child.once("error", (error) => this.#end(error.message));
    this.#child.once("close", () => this.#end("chromium has ended"));
    this.#receive(this.#child.stdio[4] as Readable);
  }

  /** Loads a page and waits until its scripts have run. */
  async open(url: string): Promise<void> {
    const loaded = new Promise<void>((resolve) =>
      this.#listeners.set("Page.loadEventFired", resolve),
    );
    await this.#call("Page.navigate", { url });
    await loaded;
  }

  /** The value of an expression in the page, which must be plain JSON. */
  async evaluate<T>(expression: string): Promise<T> {
    const options = { expression, returnByValue: true, awaitPromise: true };
    const { result, exceptionDetails } = await this.#call("Runtime.evaluate", options);
    if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
    return (result as { value: T }).value;
  }

  /** The whole page as a PNG. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.#call("Page.captureScreenshot", { captureBeyondViewport: true });
    return Buffer.from(String(data), "base64");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.#child, "close");
    const { pid, exitCode } = this.#child;
    // All of its processes, as each of them writes there.
    if (pid !== undefined && exitCode === null && process.kill(-pid, "SIGKILL")) await gone;
    await rm(this.#home, { recursive: true, force: true, maxRetries: 20 });
  }

  async #call(method: string, params: object = {}): Promise<Readonly<Record<string, unknown>>> {
    const id = ++this.#sent;
    const message = { id, method, params, sessionId: this.#session };
    const answered = new Promise<Answer>((resolve) => this.#waiting.set(id, resolve));
    (this.#child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
    const { result, error } = await answered;
    if (result === undefined) throw new Error(`${method}: ${error?.message}`);
    return result;
  }

  #receive(pipe: Readable): void {
    let text = "";
    pipe.setEncoding("utf8").on("data", (piece: string) => {
      text += piece;
      const messages = text.split("\0");
      text = messages.pop() ?? "";
      for (const message of messages) this.#take(JSON.parse(message) as Answer);
    });
  }

  #take({ id, method = "", params = {}, ...answer }: Answer): void {
    if (id !== undefined) {
      this.#waiting.get(id)?.({ id, ...answer });
      this.#waiting.delete(id);
    } else if (method === "Network.requestWillBeSent") {
      this.requests.push(String((params.request as { url: string }).url));
    } else if (method === "Runtime.exceptionThrown" || method === "Log.entryAdded") {
      this.complaints.push(JSON.stringify(params));
    } else {
      this.#listeners.get(method)?.();
    }
  }

  #end(message: string): void {
    for (const resolve of this.#waiting.values()) resolve({ error: { message } });
    this.#waiting.clear();
  }
}
