import { lstatSync, readdirSync, readlinkSync } from "node:fs";
import { CastoreError } from "../castore-error.ts";
import { type ByteString, byteStringOf } from "../model/byte-string.ts";
import { Directory, type Entry } from "../model/directory.ts";
import { encodedDirectoryOf } from "../model/directory-closure.ts";
import type { Node } from "../model/node.ts";
import { type PathComponent, parsePathComponent } from "../model/path-component.ts";
import { parseSymlinkTarget } from "../model/symlink-target.ts";
import type { BlobService } from "../services/blob-service.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import { inParallel } from "../streams/parallel.ts";
import { FileIngest, type MetFile, pathText, type SmallFiles, tried } from "./file-ingest.ts";
import type { TreeVisitor } from "./tree-visitor.ts";

/** Runs under way at once: the more, the fewer commits a durable store needs. */
const RUNS_IN_PARALLEL = 128;
const RUN_STEPS_MAX = 128;

export interface TreeIngestOptions extends CallOptions {
  readonly blobs: BlobService;
  readonly directories: DirectoryService;
  /** Called with each path below the root, components joined by "/"; false leaves it out. */
  readonly filter?: ((path: ByteString) => boolean) | undefined;
  /** Sees the tree with all contents while they are read: each byte once, in order. */
  readonly visitor?: TreeVisitor | undefined;
}

/**
 * Stores the regular file, symlink or directory at `path`, and all below it, and resolves with its
 * root node once everything is durable. Names and targets may hold any bytes. A file is executable
 * where its owner may execute it; no other metadata counts. Rejects INVALID for a path that is not
 * there and for a socket, FIFO or device, DENIED for what may not be read, and UNAVAILABLE for what
 * changes while it is read; each names the path.
 * Blocks this thread for 128 files or directories at a time: through Node's thread pool, a tree of
 * 50,000 files takes several times as long.
 */
export async function ingestTree(
  path: string | Uint8Array,
  options: TreeIngestOptions,
): Promise<Node> {
  const root = typeof path === "string" ? Buffer.from(path) : Buffer.from(path);
  options.signal?.throwIfAborted();
  const files = new FileIngest(options.blobs, options.visitor);
  const step = stepAt(NO_NAME, root, typeAt(root, "INVALID"));
  if (step.kind === "file") {
    return files.storeLarge({ path: root, name: undefined }, options.signal);
  }
  if (step.kind === "node") {
    const { node } = step;
    if (node.type === "symlink") options.visitor?.symlink(undefined, node.target);
    return node;
  }
  let size = 0;
  const directories = async function* (): AsyncGenerator<Directory> {
    for await (const directory of directoriesBelow(root, files, options)) {
      size = directory.size;
      yield directory;
    }
  };
  const digest = await options.directories.putClosure(directories(), { signal: options.signal });
  return { type: "directory", digest, size };
}

interface FileStep extends MetFile {
  readonly kind: "file";
  readonly name: PathComponent;
}

/** What is known without the contents of files. */
type KnownStep =
  | { readonly kind: "node"; readonly name: PathComponent; readonly node: Node }
  | { readonly kind: "open"; readonly name: PathComponent; readonly path: Buffer }
  | { readonly kind: "close" };

/** A stage of the walk; a directory's children lie between its "open" and its "close". */
type Step = FileStep | KnownStep;

/** Steps that are done together: one large file, or any others, whose files were read. */
type Run =
  | { readonly large: FileStep }
  | { readonly large?: undefined; readonly steps: Step[]; readonly small: SmallFiles };

/** The root has none, and its name is never used. */
const NO_NAME = "" as PathComponent;

/** The directories at and below `root`, children first. */
async function* directoriesBelow(
  root: Buffer,
  files: FileIngest,
  options: TreeIngestOptions,
): AsyncGenerator<Directory, void, undefined> {
  const store = (run: Run, signal: AbortSignal) => storeRun(run, files, signal);
  const open: { readonly name: PathComponent; readonly entries: Entry[] }[] = [];
  const runs = paced(runsOf(walk(root, options.filter), files), files);
  for await (const steps of inParallel(runs, RUNS_IN_PARALLEL, store, options)) {
    for (const step of steps) {
      if (step.kind === "open") open.push({ name: step.name, entries: [] });
      if (step.kind === "node") open.at(-1)?.entries.push({ name: step.name, node: step.node });
      if (step.kind !== "close") continue;
      const closed = open.pop();
      if (closed === undefined) return;
      const directory = Directory.ofSorted(closed.entries);
      yield directory;
      const { digest } = encodedDirectoryOf(directory);
      const node: Node = { type: "directory", digest, size: directory.size };
      open.at(-1)?.entries.push({ name: closed.name, node });
    }
  }
}

/** The steps, with nodes in the place of files. */
async function storeRun(run: Run, files: FileIngest, signal: AbortSignal): Promise<KnownStep[]> {
  if (run.large !== undefined) {
    const node = await files.storeLarge(run.large, signal);
    return [{ kind: "node", name: run.large.name, node }];
  }
  const { steps, small } = run;
  const nodes = await files.storeSmall(small, (visitor) => seeSteps(visitor, steps, small));
  let stored = 0;
  return steps.map((step) => {
    if (step.kind !== "file") return step;
    const node = nodes[stored++];
    if (node === undefined) throw new Error("a file was read and not stored");
    return { kind: "node", name: step.name, node };
  });
}

function seeSteps(visitor: TreeVisitor, steps: readonly Step[], { files }: SmallFiles): void {
  let seen = 0;
  for (const step of steps) {
    const name = step.kind === "close" || step.name === NO_NAME ? undefined : step.name;
    const file = step.kind === "file" ? files[seen++] : undefined;
    if (step.kind === "open") visitor.openDirectory(name);
    if (step.kind === "close") visitor.closeDirectory();
    if (step.kind === "node" && step.node.type === "symlink") {
      visitor.symlink(name, step.node.target);
    }
    if (file === undefined) continue;
    visitor.openFile(name, file);
    visitor.contents?.(file.contents);
    visitor.closeFile();
  }
}

/** The runs, each once there is room for its files. */
async function* paced(
  runs: Iterable<Run>,
  files: FileIngest,
): AsyncGenerator<Run, void, undefined> {
  for (const run of runs) {
    await files.room();
    yield run;
  }
}

/** Reads small files on the way. */
function* runsOf(steps: Iterable<Step>, files: FileIngest): Generator<Run, void, undefined> {
  const begin = () => ({ steps: [] as Step[], small: files.begin() });
  let run = begin();
  for (const step of steps) {
    if (run.steps.length === RUN_STEPS_MAX || run.small.run.isFull) {
      yield run;
      run = begin();
    }
    if (step.kind !== "file" || files.read(step.path, run.small)) {
      run.steps.push(step);
      continue;
    }
    yield run;
    yield { large: step };
    run = begin();
  }
  yield run;
}

/** Depth first, names ascending. */
function* walk(
  root: Buffer,
  filter: TreeIngestOptions["filter"],
): Generator<Step, void, undefined> {
  yield { kind: "open", name: NO_NAME, path: root };
  const open = [{ path: root, children: childrenOf(root) }];
  for (let top = open.at(-1); top !== undefined; top = open.at(-1)) {
    const child = top.children.next();
    if (child.done === true) {
      open.pop();
      yield { kind: "close" };
      continue;
    }
    const { name, type } = child.value;
    const path = Buffer.concat([top.path, SLASH, Buffer.from(name, "latin1")]);
    if (filter?.(byteStringOf(path.subarray(root.byteLength + 1))) === false) continue;
    const step = stepAt(name, path, type ?? typeAt(path, "UNAVAILABLE"));
    yield step;
    if (step.kind === "open") open.push({ path, children: childrenOf(path) });
  }
}

const SLASH = Buffer.from("/");

type FileType = "file" | "directory" | "symlink" | "other";

/** Names ascending bytewise; the type where the file system tells. */
function childrenOf(path: Buffer): Iterator<{ name: PathComponent; type: FileType | undefined }> {
  const children = tried(path, () =>
    readdirSync(path, { encoding: "buffer", withFileTypes: true }),
  ).map((child) => ({ name: parsePathComponent(child.name), type: typeOf(child) }));
  children.sort((a, b) => (a.name < b.name ? -1 : 1));
  return children[Symbol.iterator]();
}

interface Typed {
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}

function typeOf(entry: Typed): FileType | undefined {
  if (entry.isFile()) return "file";
  if (entry.isDirectory()) return "directory";
  return entry.isSymbolicLink() ? "symlink" : undefined;
}

function typeAt(path: Buffer, absent: "INVALID" | "UNAVAILABLE"): FileType {
  return typeOf(tried(path, () => lstatSync(path), absent)) ?? "other";
}

function stepAt(
  name: PathComponent,
  path: Buffer,
  type: FileType,
): Exclude<Step, { kind: "close" }> {
  if (type === "directory") return { kind: "open", name, path };
  if (type === "file") return { kind: "file", name, path };
  if (type === "other") {
    const message = `${pathText(path)}: neither a regular file, nor a symlink, nor a directory`;
    throw new CastoreError("INVALID", message);
  }
  const target = tried(path, () => readlinkSync(path, { encoding: "buffer" }));
  return { kind: "node", name, node: { type: "symlink", target: parseSymlinkTarget(target) } };
}
