import type { ChunkFetcher, Node, Recipe, TreePlan } from "@castore/castore";
import type { NarInfo } from "../nix/nar-info.ts";
import type { RootSignature } from "../nix/signed-root.ts";
import type { StoreHash } from "../nix/store-path.ts";
import type { CostOptions } from "./castore-endpoint.ts";
import type { Offer } from "./price-list.ts";

/** A path's contents as a server describes them; the directories are in the store by then. */
export interface PathContents {
  readonly node: Node;
  /** Undefined where no file below the root has more than one chunk or a reference. */
  readonly recipe: Recipe | undefined;
  readonly rootSignatures: readonly RootSignature[];
}

/** What a path's contents would cost, by their summary: too much to ask for more. */
export interface PathEstimate {
  readonly estimate: Offer;
}

export interface ContentsOptions extends CostOptions {
  /**
   * Whether it would pay to fetch a path's contents for so many bytes. Where this is given, a
   * summary may answer, and the rest is asked for only where it pays.
   */
  readonly pays?: ((storeHash: StoreHash, bytes: number) => boolean) | undefined;
  /** The path's closure, as far as it will be asked for soon; what is referred to first. */
  readonly closure?: (() => readonly StoreHash[]) | undefined;
  /** Other paths that are likely to be asked for soon. */
  readonly others?: (() => readonly StoreHash[]) | undefined;
  /** Told when a question was answered, and other paths may be described now. */
  readonly onDescribed?: (() => void) | undefined;
}

/** A server that gives the contents of paths in pieces. Nothing that it says is trusted. */
export interface ContentsServer extends Disposable {
  /** For logs and records: what it speaks, and where it is. */
  readonly name: string;
  readonly way: "castore" | "grpc";
  /** Whether one question may be for many paths; known once `isUsable` answered. */
  readonly tellsOfMany: boolean;
  readonly fetcher: ChunkFetcher;
  /** Whether it answers, speaks our version and is not left alone; a failure is noted. */
  isUsable(options: CostOptions): Promise<boolean>;
  /** Whether the path was described already, so that its contents cost no other question. */
  isDescribed(storeHash: StoreHash): boolean;
  /** The path's contents; undefined where the server does not have them. */
  describe(
    narInfo: NarInfo,
    options?: ContentsOptions,
  ): Promise<PathContents | PathEstimate | undefined>;
  /** What it takes to fetch what is missing of `tree`. */
  offer(tree: TreePlan): Promise<Offer>;
  /** Notes that the server did its part. */
  worked(): void;
  /** Notes a failure: the server is left alone for a while. */
  failed(error: unknown): void;
}
