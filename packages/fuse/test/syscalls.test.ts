import { readFileSync } from "node:fs";
import { getPriority, setPriority } from "node:os";
import { expect, it } from "vitest";
import { loadSyscalls } from "../src/syscalls.ts";

it("setSlice() changes how long the thread runs at a time, and not its priority", async () => {
  const syscalls = await loadSyscalls();
  const priority = getPriority() + 1;
  setPriority(priority);
  syscalls?.setSlice(300_000);
  expect(getPriority()).toBe(priority);
  // Not every kernel says it.
  const told = /^se\.slice +: +(\d+)/m.exec(readFileSync("/proc/thread-self/sched", "utf8"))?.[1];
  expect(told ?? "300000").toBe("300000");
});
