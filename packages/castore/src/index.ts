export { ABSENCE_MS, type AbsencesOptions, createAbsences } from "./absences.ts";
export { AssembledBlobs, type AssembledBlobsOptions } from "./assembled-blobs.ts";
export { type BlobAnalysis, type BlobAnalyzer, createBlobAnalyzer } from "./blob-analyzer.ts";
export type {
  BlobReader,
  BlobService,
  ByteSource,
  CallOptions,
  ChunkMeta,
  PutBlobOptions,
} from "./blob-service.ts";
export { ByteQueue } from "./byte-queue.ts";
export { type ByteRange, clipRange } from "./byte-range.ts";
export {
  type ByteString,
  byteStringBytes,
  byteStringOf,
  byteStringOfText,
  byteStringText,
} from "./byte-string.ts";
export { type ByteTransform, throughDuplex } from "./byte-transform.ts";
export { createCachedBlobService, isRefusal } from "./cached-blob-service.ts";
export { createCachedDirectoryService } from "./cached-directory-service.ts";
export { cancellable, untilAborted } from "./cancellable.ts";
export {
  CASTORE_ERROR_CODES,
  CastoreError,
  type CastoreErrorCode,
  isCastoreError,
} from "./castore-error.ts";
export {
  type CastorePath,
  castorePathNames,
  castorePathOfHost,
  castorePathParent,
  joinCastorePath,
  parseCastorePath,
} from "./castore-path.ts";
export type { RepairOptions, RepairReport } from "./check-and-repair.ts";
export type { StoreFault } from "./check-store.ts";
export {
  ChunkFetcher,
  type ChunkPlan,
  type ChunkTransport,
  FETCH_BYTES_MAX,
  FETCH_ITEMS_MAX,
} from "./chunk-fetcher.ts";
export type { ChunkIndex } from "./chunk-index.ts";
export {
  CHUNK_SIZES,
  type Chunker,
  chunksOf,
  createChunker,
  createChunkerFactory,
} from "./chunker.ts";
export {
  CLOSURE_REQUEST_KNOWN_MAX,
  CLOSURE_REQUEST_WANTED_MAX,
  type ClosureRequest,
  decodeClosureRequest,
  encodeClosureRequest,
} from "./closure-request.ts";
export { descend } from "./descend.ts";
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
} from "./digest.ts";
export type { DirectContent, DirectContentModule, DirectRange } from "./direct-content.ts";
export { Directory, directoryOf, type Entry } from "./directory.ts";
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
} from "./directory-closure.ts";
export { DIRECTORY_BYTES_MAX, decodeDirectory, encodeDirectory } from "./directory-codec.ts";
export { decodeDirectoryLenient, decodeEntryLenient } from "./directory-lenient.ts";
export type { DirectoryService } from "./directory-service.ts";
export { decodeDirectoryStream, encodeDirectoryStream } from "./directory-stream.ts";
export {
  decodeFetchAnswer,
  encodeFetchAnswer,
  FETCH_FRAME_BYTES_MAX,
  type FetchFrame,
  fetchFrameContents,
} from "./fetch-answer.ts";
export {
  type BlobRange,
  decodeFetchRequest,
  encodeFetchRequest,
  FETCH_REQUEST_ITEMS_MAX,
  type FetchRequest,
} from "./fetch-request.ts";
export { type FileObjectStore, openFileObjectStore } from "./file-object-store.ts";
export { walkFiles } from "./file-walk.ts";
export { createFirstBlobService } from "./first-blob-service.ts";
export { createFirstDirectoryService } from "./first-directory-service.ts";
export { firstAnswer, rejectWrite } from "./first-of.ts";
export type { CollectionReport } from "./garbage-collection.ts";
export type { CollectOptions } from "./garbage-collector.ts";
export {
  type BlobGrpcOptions,
  createBlobGrpcService,
  requestedDigest,
} from "./grpc-blob-handlers.ts";
export { createGrpcBlobService } from "./grpc-blob-service.ts";
export { type GrpcChannel, type GrpcChannelOptions, openGrpcChannel } from "./grpc-channel.ts";
export { createDirectoryGrpcService } from "./grpc-directory-handlers.ts";
export { createGrpcDirectoryService } from "./grpc-directory-service.ts";
export {
  type GrpcCall,
  type GrpcServerMethod,
  type GrpcService,
  receivingMethod,
  sendingMethod,
  unaryMethod,
} from "./grpc-handler.ts";
export {
  GRPC_MESSAGE_BYTES_MAX,
  type GrpcHeaders,
  type GrpcMethod,
  type MessageCodec,
} from "./grpc-method.ts";
export { createGrpcServer, type GrpcServer, type GrpcServerOptions } from "./grpc-server.ts";
export { GrpcStatusError, grpcStatus, hasGrpcStatus, isGrpcNotFound } from "./grpc-status.ts";
export { openHttpObjectStore } from "./http-object-store.ts";
export type { ChunkSizes } from "./kernel.ts";
export { localDirectContent } from "./local-direct-content.ts";
export type { LocalStore, LocalStoreOptions } from "./local-store.ts";
export {
  createBytesReader,
  createMemoryBlobService,
  type MemoryBlobServiceOptions,
} from "./memory-blob-service.ts";
export { createMemoryDirectoryService } from "./memory-directory-service.ts";
export { createMemoryObjectStore } from "./memory-object-store.ts";
export {
  type DirectoryNode,
  type FileNode,
  type Node,
  nodesEqual,
  type SymlinkNode,
} from "./node.ts";
export {
  decodeEntry,
  decodeNode,
  ENTRY_TEXT_LENGTH_MAX,
  encodeEntry,
  encodeNode,
  formatEntryText,
  parseEntryText,
  type RawEntry,
} from "./node-codec.ts";
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
} from "./normal-form.ts";
export type { ObjectHttpOptions } from "./object-http.ts";
export {
  checkObjectKey,
  type GetObjectOptions,
  OBJECT_BYTES_MAX,
  type ObjectEntry,
  type ObjectStore,
  objectKey,
  type PutObjectOptions,
} from "./object-store.ts";
export {
  createObjectStoreBlobService,
  type ObjectStoreBlobOptions,
} from "./object-store-blob-service.ts";
export { createObjectStoreDirectoryService } from "./object-store-directory-service.ts";
export { openLocalStore } from "./open-local-store.ts";
export {
  type Opened,
  type OpenServiceOptions,
  openBlobService,
  openDirectoryService,
  openObjectStore,
  openService,
  type ServiceMakers,
} from "./open-services.ts";
export { inParallel } from "./parallel.ts";
export {
  PATH_COMPONENT_BYTES_MAX,
  type PathComponent,
  type PathComponentFault,
  parsePathComponent,
  pathComponentFault,
  pathComponentOfText,
} from "./path-component.ts";
export type { Pin, PinStore } from "./pin-store.ts";
export { type BlobRecipe, completeRecipe, type Recipe, type RecipeChunk } from "./recipe.ts";
export { buildRecipe, type RecipeSource } from "./recipe-builder.ts";
export { decodeRecipe, encodeRecipe, RECIPE_BYTES_MAX } from "./recipe-codec.ts";
export type { RootChange, RootEntry, RootNode, RootNodes } from "./root-nodes.ts";
export type { RootRecord, RootStore, StoreTable, TableRow } from "./root-store.ts";
export {
  openS3ObjectStore,
  resolveS3Location,
  S3_OPTION_NAMES,
  type S3Location,
  type S3Options,
} from "./s3-object-store.ts";
export type { SeedReport } from "./seed-tree.ts";
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
} from "./service-url.ts";
export { FLIGHTS_MAX, SingleFlight } from "./single-flight.ts";
export {
  createStaticRootNodes,
  type StaticRoot,
  type StaticRootNodes,
} from "./static-root-nodes.ts";
export type { Lease } from "./store-leases.ts";
export {
  parseSymlinkTarget,
  SYMLINK_TARGET_BYTES_MAX,
  type SymlinkTarget,
  type SymlinkTargetFault,
  symlinkTargetFault,
} from "./symlink-target.ts";
export { ingestTree, type TreeIngestOptions } from "./tree-ingest.ts";
export { type NearServices, planTree, type TreePlan } from "./tree-plan.ts";
export { renderTree, type TreeSource } from "./tree-render.ts";
export { bytesField, messageField, uintField, WireFields } from "./wire-fields.ts";
export {
  createZstdDecoder,
  createZstdEncoder,
  ZSTD_LEVEL,
  type ZstdDecoderOptions,
  type ZstdEncoderOptions,
  zstdCompress,
  zstdDecompress,
} from "./zstd.ts";
