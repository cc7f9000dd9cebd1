import { expect, test } from "vitest";
import { HOLD_BUDGET_BYTES, HoldBudget } from "../src/substitution/hold-budget.ts";
import { HOLD_BYTES_MAX } from "../src/substitution/nar-delivery.ts";

test("NARs are held back until the budget is spent, and again when some is released", () => {
  const budget = new HoldBudget();
  const holds = Array.from({ length: HOLD_BUDGET_BYTES / HOLD_BYTES_MAX }, () =>
    budget.take(HOLD_BYTES_MAX),
  );
  expect(holds.every(({ bytes }) => bytes === HOLD_BYTES_MAX)).toBe(true);
  expect(budget.take(1).bytes).toBe(0);
  holds[0]?.release();
  holds[0]?.release();
  expect(budget.take(HOLD_BYTES_MAX).bytes).toBe(HOLD_BYTES_MAX);
  expect(budget.take(1).bytes).toBe(0);
});

test("a NAR above the limit is not held back", () => {
  expect(new HoldBudget().take(HOLD_BYTES_MAX + 1).bytes).toBe(0);
});
