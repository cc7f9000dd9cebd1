import { copyFile, rm } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";
import { NATIVE_PACKAGES } from "./dist/netboot/native-packages.js";

// Loading takes longer the more files there are. The 200 modules that `castore import` needs take
// 0.22 s of CPU, and as a few files 0.09 s; under software emulation the 470 of `castore mount`
// take 9.6 s, and 2.9 s as one file.

const built = (path) => fileURLToPath(new URL(`../${path}`, import.meta.url));

/** By their names in a bundle, which the code refers to them by. */
const PROGRAM = { main: built("cli/dist/main.js") };
const MACHINE = { "machine-client": built("cli/dist/netboot/machine-client.js") };
const MACHINE_THREADS = {
  "session-worker": built("fuse/dist/session-worker.js"),
  "page-worker": built("fuse/dist/page-worker.js"),
  "store-writer-thread": built("castore/dist/local/store-writer-thread.js"),
  "store-task-thread": built("castore/dist/local/store-task-thread.js"),
  "local-direct-content": built("castore/dist/local/local-direct-content.js"),
  "recent-direct-content": built("castore/dist/local/recent-direct-content.js"),
};
const THREADS = {
  ...MACHINE_THREADS,
  "sha256-thread": built("nar-bridge/dist/nar/sha256-thread.js"),
  "dedup-compressor-thread": built("nar-bridge/dist/dedup/dedup-compressor-thread.js"),
};
const ENTRIES = new Set(Object.values({ ...PROGRAM, ...MACHINE, ...THREADS }));

const NATIVES = NATIVE_PACKAGES.map(({ name }) => new RegExp(`^${name}(/|$)`));

/** Lets a bundle hold what these modules load when it is first used. */
const lazyModules = {
  name: "lazy-modules",
  transform(code, id) {
    if (!/\/lazy-(grpc|lmdb|modules|undici)\.js$/.test(id)) return undefined;
    return code.replace(/^const require = createRequire.*$/m, "");
  },
};

/** What a machine does without: nobody asks it for metrics, and it never speaks HTTP/2. */
const notInMachines = {
  name: "not-in-machines",
  transform(code, id) {
    if (/\/lazy-modules\.js$/.test(id)) {
      const counter = "class { inc() {} dec() {} }";
      const client = `({ Registry: class {}, Counter: ${counter}, Gauge: ${counter} })`;
      return code.replace('require("prom-client")', client);
    }
    if (!/\/undici\/lib\/dispatcher\/client-h2\.js$/.test(id)) return undefined;
    return code.replace("require('node:http2')", "{ constants: {} }");
  },
};

/** What is used of undici: all of it takes 0.5 s of CPU, and has Node load its own one as well. */
const undiciParts = {
  name: "undici-parts",
  transform(_code, id) {
    if (!/\/undici\/index\.js$/.test(id)) return undefined;
    return `
      const Dispatcher = require("./lib/dispatcher/dispatcher");
      Object.assign(Dispatcher.prototype, require("./lib/api"));
      module.exports.Client = require("./lib/dispatcher/client");
      module.exports.Pool = require("./lib/dispatcher/pool");
      module.exports.buildConnector = require("./lib/core/connect");
    `;
  },
};

/** Writes each entry, and all that it imports beside the packages `external`, below `directory`. */
async function bundle(directory, entries, { external = [], plugins = [], ...output }) {
  for (const [name, input] of Object.entries(entries)) {
    const build = await rolldown({
      input: { [name]: input },
      platform: "node",
      external: [...NATIVES, "fastify", ...external],
      plugins,
      treeshake: { moduleSideEffects: (id) => ENTRIES.has(id) },
      logLevel: "silent",
    });
    const ending = output.format === "cjs" ? "cjs" : "js";
    const names = { entryFileNames: `[name].${ending}`, chunkFileNames: `[name]-[hash].js` };
    await build.write({ dir: built(directory), ...names, ...output });
    await build.close();
  }
}

const oneFile = { codeSplitting: false, minify: true, plugins: [lazyModules, undiciParts] };
const inMachine = { ...oneFile, plugins: [notInMachines, ...oneFile.plugins] };

for (const name of ["program", "machine"]) {
  await rm(built(`cli/dist/${name}`), { recursive: true, force: true });
}
// What one command needs and others do not is a file of its own.
await bundle("cli/dist/program", PROGRAM, { format: "es", external: [/^(undici|@grpc)(\/|$)/] });
await bundle("cli/dist/program", THREADS, { format: "es", ...oneFile });
// A file of CommonJS: its functions are compiled when they are called, not when it is loaded.
await bundle("cli/dist/machine", MACHINE, {
  format: "cjs",
  dynamicImportInCjs: false,
  ...inMachine,
});
await bundle("cli/dist/machine", MACHINE_THREADS, { format: "es", ...inMachine });

// Modules look for these beside the directory that they lie in.
await copyFile(built("cli/package.json"), built("cli/dist/package.json"));
for (const name of ["kernel.wasm", "blake3.wasm"]) {
  await copyFile(built(`castore/dist/${name}`), built(`cli/dist/${name}`));
}
