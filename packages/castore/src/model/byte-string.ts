declare const byteStringBrand: unique symbol;

/**
 * A string in which each character is one byte (0..255), as the Web IDL standard defines it.
 * Names and symlink targets may hold any byte, so they are kept in this form: it compares by
 * value, keys a Map, and `<` orders it bytewise. `Buffer.from(s, "latin1")` gives the bytes.
 */
export type ByteString = string & { readonly [byteStringBrand]: true };

/** The ByteString of `bytes`, copied. */
export function byteStringOf(bytes: Uint8Array): ByteString {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString(
    "latin1",
  ) as ByteString;
}

/** The UTF-8 encoding of `text`, as a ByteString. */
export function byteStringOfText(text: string): ByteString {
  return Buffer.from(text, "utf8").toString("latin1") as ByteString;
}

/** The bytes of `string`, freshly allocated. */
export function byteStringBytes(string: ByteString): Buffer {
  return Buffer.from(string, "latin1");
}

/** Decodes UTF-8; a byte that is not UTF-8 becomes U+FFFD. For people, not for paths. */
export function byteStringText(string: ByteString): string {
  return Buffer.from(string, "latin1").toString("utf8");
}
