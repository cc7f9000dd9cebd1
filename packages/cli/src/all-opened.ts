/** All of them; where one fails, the others are closed again. */
export async function allOpened<T extends readonly Promise<AsyncDisposable>[]>(
  opening: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  try {
    return await Promise.all(opening);
  } catch (error) {
    const settled = await Promise.allSettled(opening);
    await closeAll(settled.flatMap((it) => (it.status === "fulfilled" ? [it.value] : [])));
    throw error;
  }
}

/** Closes all of them. */
export async function closeAll(parts: readonly AsyncDisposable[]): Promise<void> {
  await Promise.all(parts.map((part) => part[Symbol.asyncDispose]()));
}
