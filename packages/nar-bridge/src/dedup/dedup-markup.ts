/** HTML that needs no escaping any more. */
export interface Markup {
  readonly html: string;
}

type Inserted = string | number | Markup | readonly Markup[];

/** A template whose inserted texts are escaped, so that no name can become a tag or attribute. */
export function markup(parts: TemplateStringsArray, ...values: readonly Inserted[]): Markup {
  let html = parts[0] ?? "";
  for (const [i, value] of values.entries()) html += htmlOf(value) + (parts[i + 1] ?? "");
  return { html };
}

function htmlOf(value: Inserted): string {
  if (typeof value === "number") return String(value);
  if (typeof value === "string") return escapeHtml(value);
  return "html" in value ? value.html : value.map(({ html }) => html).join("");
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
