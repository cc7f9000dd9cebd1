const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Bytes for people, in powers of 1000 and three digits: "820 MB", "1.25 GB". */
export function formatAmount(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** What part `bytes` are of `whole`: "51 %", "0.4 %", "0.03 %". */
export function formatShare(bytes: number, whole: number): string {
  if (whole === 0) return "–";
  const percent = (100 * bytes) / whole;
  const digits = percent === 0 || percent >= 9.95 ? 0 : percent >= 0.095 ? 1 : 2;
  return `${percent.toFixed(digits)} %`;
}

/** "1 path", "2 paths" */
export function formatCount(count: number, noun: string): string {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}
