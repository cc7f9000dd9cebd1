import type { PathComponent } from "../model/path-component.ts";
import type { SymlinkTarget } from "../model/symlink-target.ts";

/** What is known of a file before its contents. */
export interface FileHead {
  /** Bytes. */
  readonly size: number;
  readonly executable: boolean;
}

/** What stands in a tree, depth first, names ascending bytewise; the root has no name. */
export interface TreeVisitor {
  openDirectory(name: PathComponent | undefined): void;
  closeDirectory(): void;
  openFile(name: PathComponent | undefined, file: FileHead): void;
  /** The next bytes of the file: unchanged until the call returns. */
  contents?(bytes: Uint8Array): void;
  closeFile(): void;
  symlink(name: PathComponent | undefined, target: SymlinkTarget): void;
}
