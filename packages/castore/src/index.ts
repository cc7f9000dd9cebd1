export {
  CASTORE_ERROR_CODES,
  CastoreError,
  type CastoreErrorCode,
  isCastoreError,
  messageOf,
  systemCodeOf,
} from "./castore-error.ts";
export {
  CHUNK_SIZES,
  type Chunker,
  chunksOf,
  createChunker,
  createChunkerFactory,
} from "./chunking/chunker.ts";
export type { ChunkSizes } from "./chunking/kernel.ts";
export { ABSENCE_MS, type AbsencesOptions, createAbsences } from "./composition/absences.ts";
export { createCachedBlobService, isRefusal } from "./composition/cached-blob-service.ts";
export { createCachedDirectoryService } from "./composition/cached-directory-service.ts";
export { createFirstBlobService } from "./composition/first-blob-service.ts";
export { createFirstDirectoryService } from "./composition/first-directory-service.ts";
export { firstAnswer, rejectWrite } from "./composition/first-of.ts";
export {
  type Opened,
  type OpenServiceOptions,
  openBlobService,
  openDirectoryService,
  openObjectStore,
  openService,
  type ServiceMakers,
} from "./composition/open-services.ts";
export { AssembledBlobs, type AssembledBlobsOptions } from "./fetching/assembled-blobs.ts";
export {
  ChunkFetcher,
  type ChunkTransport,
  FETCH_BYTES_MAX,
  FETCH_ITEMS_MAX,
  FETCH_PARALLEL,
  type FetchedChunk,
} from "./fetching/chunk-fetcher.ts";
export type { ChunkPlan } from "./fetching/chunk-plan.ts";
export {
  CLOSURE_REQUEST_KNOWN_MAX,
  CLOSURE_REQUEST_WANTED_MAX,
  type ClosureRequest,
  decodeClosureRequest,
  encodeClosureRequest,
} from "./fetching/closure-request.ts";
export {
  decodeFetchAnswer,
  encodeFetchAnswer,
  FETCH_END_BYTES,
  FETCH_FRAME_BYTES_MAX,
  FETCH_FRAME_HEADER_BYTES,
  type FetchFrame,
  fetchFrameContents,
} from "./fetching/fetch-answer.ts";
export {
  type BlobRange,
  decodeFetchRequest,
  encodeFetchRequest,
  FETCH_REQUEST_ITEMS_MAX,
  type FetchRequest,
} from "./fetching/fetch-request.ts";
export { createTransferCost, type TransferCost } from "./fetching/transfer-cost.ts";
export { type NearServices, planTree, type TreePlan } from "./fetching/tree-plan.ts";
export { walkFiles } from "./files/file-walk.ts";
export { loadKoffi } from "./files/koffi.ts";
export {
  type BlobGrpcOptions,
  createBlobGrpcService,
  requestedDigest,
} from "./grpc/grpc-blob-handlers.ts";
export { createGrpcBlobService } from "./grpc/grpc-blob-service.ts";
export { type GrpcChannel, type GrpcChannelOptions, openGrpcChannel } from "./grpc/grpc-channel.ts";
export { createDirectoryGrpcService } from "./grpc/grpc-directory-handlers.ts";
export { createGrpcDirectoryService } from "./grpc/grpc-directory-service.ts";
export {
  type GrpcCall,
  type GrpcServerMethod,
  type GrpcService,
  receivingMethod,
  sendingMethod,
  unaryMethod,
} from "./grpc/grpc-handler.ts";
export {
  GRPC_MESSAGE_BYTES_MAX,
  type GrpcHeaders,
  type GrpcMethod,
  type MessageCodec,
} from "./grpc/grpc-method.ts";
export { createGrpcServer, type GrpcServer, type GrpcServerOptions } from "./grpc/grpc-server.ts";
export { GrpcStatusError, hasGrpcStatus, isGrpcNotFound } from "./grpc/grpc-status.ts";
export { grpcStatus, grpcStatusName } from "./grpc/grpc-status-codes.ts";
export type { RepairOptions, RepairReport } from "./local/check-and-repair.ts";
export type { StoreFault } from "./local/check-store.ts";
export type { CollectionReport } from "./local/garbage-collection.ts";
export type { CollectOptions } from "./local/garbage-collector.ts";
export { findIndexFault, type PageFault } from "./local/index-pages.ts";
export { localDirectContent } from "./local/local-direct-content.ts";
export type { LocalStore, LocalStoreOptions } from "./local/local-store.ts";
export { openLocalStore } from "./local/open-local-store.ts";
export { RecentBlobs, type RecentBlobsOptions } from "./local/recent-blobs.ts";
export type { SeedReport } from "./local/seed-tree.ts";
export type { Lease } from "./local/store-leases.ts";
export {
  type ByteString,
  byteStringBytes,
  byteStringOf,
  byteStringOfText,
  byteStringText,
} from "./model/byte-string.ts";
export {
  type CastorePath,
  castorePathNames,
  castorePathOfHost,
  castorePathParent,
  joinCastorePath,
  parseCastorePath,
} from "./model/castore-path.ts";
export {
  createDigestHasher,
  DIGEST_BYTES,
  type Digest,
  type DigestHasher,
  digestBytes,
  digestOf,
  digestOfBytes,
  EMPTY_DIGEST,
  formatDigestText,
  parseDigest,
} from "./model/digest.ts";
export { Directory, directoryOf, type Entry } from "./model/directory.ts";
export {
  CLOSURE_DIRECTORIES_MAX,
  createRootToLeaves,
  type EncodedDirectory,
  encodedDirectoryOf,
  type LeavesToRootOptions,
  leavesToRoot,
  type RootToLeaves,
  type StoredDirectory,
  walkClosure,
} from "./model/directory-closure.ts";
export { DIRECTORY_BYTES_MAX, decodeDirectory, encodeDirectory } from "./model/directory-codec.ts";
export { decodeDirectoryLenient, decodeEntryLenient } from "./model/directory-lenient.ts";
export { decodeDirectoryStream, encodeDirectoryStream } from "./model/directory-stream.ts";
export { type EntryPlace, EntryReader } from "./model/entry-reader.ts";
export {
  type DirectoryNode,
  type FileNode,
  type Node,
  nodesEqual,
  type SymlinkNode,
} from "./model/node.ts";
export {
  decodeEntry,
  decodeNode,
  ENTRY_TEXT_LENGTH_MAX,
  encodeEntry,
  encodeNode,
  formatEntryText,
  parseEntryText,
  type RawEntry,
} from "./model/node-codec.ts";
export {
  PATH_COMPONENT_BYTES_MAX,
  type PathComponent,
  type PathComponentFault,
  parsePathComponent,
  pathComponentFault,
  pathComponentOfText,
} from "./model/path-component.ts";
export {
  parseSymlinkTarget,
  SYMLINK_TARGET_BYTES_MAX,
  type SymlinkTarget,
  type SymlinkTargetFault,
  symlinkTargetFault,
} from "./model/symlink-target.ts";
export { bytesField, messageField, uintField, WireFields } from "./model/wire-fields.ts";
export { type FileObjectStore, openFileObjectStore } from "./objects/file-object-store.ts";
export { openHttpObjectStore } from "./objects/http-object-store.ts";
export { createMemoryObjectStore } from "./objects/memory-object-store.ts";
export type { ObjectHttpOptions } from "./objects/object-http.ts";
export {
  checkObjectKey,
  type GetObjectOptions,
  OBJECT_BYTES_MAX,
  type ObjectEntry,
  type ObjectStore,
  objectKey,
  type PutObjectOptions,
} from "./objects/object-store.ts";
export {
  createObjectStoreBlobService,
  type ObjectStoreBlobOptions,
} from "./objects/object-store-blob-service.ts";
export { createObjectStoreDirectoryService } from "./objects/object-store-directory-service.ts";
export {
  openS3ObjectStore,
  resolveS3Location,
  S3_OPTION_NAMES,
  type S3Location,
  type S3Options,
} from "./objects/s3-object-store.ts";
export { passWholeBodies } from "./objects/whole-bodies.ts";
export { GROUP_BYTES } from "./outboards/group-hasher.ts";
export { buildOutboard, outboardBytes, VerifiedGroups } from "./outboards/outboard.ts";
export {
  type BlobAnalysis,
  type BlobAnalyzer,
  createBlobAnalyzer,
} from "./recipes/blob-analyzer.ts";
export {
  checkReference,
  createNormalForm,
  createNormalizer,
  denormalize,
  type NormalForm,
  type Normalizer,
  normalizeAt,
  OCCURRENCES_MAX,
  type Occurrence,
  REFERENCE_LENGTH,
  REFERENCES_MAX,
} from "./recipes/normal-form.ts";
export {
  type BlobRecipe,
  completeRecipe,
  type Recipe,
  type RecipeChunk,
} from "./recipes/recipe.ts";
export { buildRecipe, type RecipeSource } from "./recipes/recipe-builder.ts";
export { decodeRecipe, encodeRecipe, RECIPE_BYTES_MAX } from "./recipes/recipe-codec.ts";
export {
  decodeTreeSummary,
  encodeTreeSummary,
  summarizeTree,
  type TreeSummary,
} from "./recipes/tree-summary.ts";
export { BlobRun, RUN_BLOB_BYTES_MAX } from "./services/blob-run.ts";
export type {
  BlobReader,
  BlobService,
  ChunkMeta,
  OpenBlobOptions,
  PutBlobOptions,
  StreamOptions,
} from "./services/blob-service.ts";
export type { ChunkIndex } from "./services/chunk-index.ts";
export type { DirectContent, DirectContentModule, DirectRange } from "./services/direct-content.ts";
export type { DirectDirectoryService, DirectoryService } from "./services/directory-service.ts";
export {
  createBytesReader,
  createMemoryBlobService,
  type MemoryBlobServiceOptions,
} from "./services/memory-blob-service.ts";
export { createMemoryDirectoryService } from "./services/memory-directory-service.ts";
export type { Pin, PinStore } from "./services/pin-store.ts";
export type { RootChange, RootEntry, RootNode, RootNodes } from "./services/root-nodes.ts";
export type { RootRecord, RootStore, StoreTable, TableRow } from "./services/root-store.ts";
export {
  type GrpcAddress,
  type GrpcTls,
  type ObjectStoreAddress,
  parseBlobServiceUrl,
  parseCommonServiceUrl,
  parseDatabaseServiceUrl,
  parseDirectoryServiceUrl,
  parseServiceUrlQuery,
  type ServiceUrl,
} from "./services/service-url.ts";
export { FLIGHTS_MAX, SingleFlight } from "./services/single-flight.ts";
export {
  createStaticRootNodes,
  type StaticRoot,
  type StaticRootNodes,
} from "./services/static-root-nodes.ts";
export { ByteQueue } from "./streams/byte-queue.ts";
export { type ByteRange, clipRange } from "./streams/byte-range.ts";
export type { ByteSource, CallOptions } from "./streams/byte-source.ts";
export { type ByteTransform, throughDuplex } from "./streams/byte-transform.ts";
export { cancellable, untilAborted } from "./streams/cancellable.ts";
export { inParallel } from "./streams/parallel.ts";
export { PiecePool, POOLED_PIECE_BYTES } from "./streams/piece-pool.ts";
export {
  createZstdDecoder,
  createZstdEncoder,
  ZSTD_LEVEL,
  type ZstdDecoderOptions,
  type ZstdEncoderOptions,
  zstdCompress,
  zstdDecompress,
} from "./streams/zstd.ts";
export { descend } from "./trees/descend.ts";
export { ingestTree, type TreeIngestOptions } from "./trees/tree-ingest.ts";
export { renderTree, type TreeSource } from "./trees/tree-render.ts";
export type { FileHead, TreeVisitor } from "./trees/tree-visitor.ts";
