/** For `node --import`: koffi is not installed. */
import { register } from "node:module";

const hooks = `export async function resolve(specifier, context, next) {
  if (specifier === "koffi") throw new Error("koffi: not there");
  return await next(specifier, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
