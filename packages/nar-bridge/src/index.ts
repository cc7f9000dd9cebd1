export {
  COMPRESSIONS,
  type Compression,
  type CompressOptions,
  compress,
  type DecompressOptions,
  decompress,
  parseCompression,
} from "./compression/compression.ts";
export { CASTORE_CUT_ID, DEDUP_CUTS, type DedupCut } from "./dedup/dedup-cut.ts";
export { renderDedupPage } from "./dedup/dedup-page.ts";
export type {
  DedupAmount,
  DedupAmounts,
  DedupChoice,
  DedupPairReport,
  DedupPathUpdate,
  DedupReport,
  DedupStorage,
  DedupUpdate,
  DedupUpdateAmount,
} from "./dedup/dedup-report.ts";
export {
  type SurveyOptions,
  type SurveyPair,
  type SurveyProgress,
  surveyDedup,
} from "./dedup/dedup-survey.ts";
export { formatDedupTable } from "./dedup/dedup-table.ts";
export {
  type ExportedPath,
  type ExportOptions,
  type ExportReport,
  type ExportSource,
  exportClosure,
} from "./export/export-closure.ts";
export type { ExportCompression, ExportedNar } from "./export/export-nar.ts";
export type { Log } from "./log.ts";
export { type ContentCheck, createContentCheck, SELF_REFERENCES_MAX } from "./nar/content-check.ts";
export { createNarHasher, type NarHasher } from "./nar/nar-hasher.ts";
export {
  createNarIngest,
  INGEST_HELD_BYTES_MAX,
  INGEST_PUTS_MAX,
  INGEST_SMALL_FILE_BYTES_MAX,
  type IngestedNar,
  type IngestNarOptions,
  ingestNar,
  type NarIngest,
} from "./nar/nar-ingest.ts";
export {
  createNarLayout,
  NAR_LITERAL_BYTES_MAX,
  type NarLayout,
  type NarServices,
} from "./nar/nar-layout.ts";
export {
  createNarListingBuilder,
  formatNarListing,
  type ListedDirectory,
  type ListedEntry,
  type ListedFile,
  type ListedNode,
  type ListedSymlink,
  type NarListingBuilder,
  parseNarListing,
} from "./nar/nar-listing.ts";
export {
  createNarReader,
  type NarFileHead,
  type NarReader,
  type NarVisitor,
} from "./nar/nar-reader.ts";
export { calculateNar, type NarIdentity, narSizeOf, renderNar } from "./nar/nar-render.ts";
export { NAR_DEPTH_MAX } from "./nar/nar-token.ts";
export { createThreadedSha256, type RunningSha256 } from "./nar/threaded-sha256.ts";
export {
  CACHE_INFO_LENGTH_MAX,
  type CacheInfo,
  formatCacheInfo,
  parseCacheInfo,
  parseUpgrade,
  type Upgrade,
} from "./nix/cache-info.ts";
export {
  type BridgedNar,
  formatBridgedNarUrl,
  formatSnixNarUrl,
  type NarFile,
  parseBridgedNarUrl,
  parseNarFile,
  parseSnixNarUrl,
  parseStoreHashFile,
  type SnixNar,
  type StoreHashFile,
} from "./nix/cache-url.ts";
export {
  type ContentAddress,
  type ContentAddressed,
  contentAddressedPath,
  formatContentAddress,
  isContentAddressed,
  type MaybeContentAddressed,
  parseContentAddress,
} from "./nix/content-address.ts";
export { KEY_NAME_LENGTH_MAX, PublicKey, SecretKey, SIGNATURE_BYTES } from "./nix/ed25519-key.ts";
export { acceptedFingerprints, type Fingerprinted, formatFingerprint } from "./nix/fingerprint.ts";
export { type NarInfo, type NarInfoQuirk, narInfoServedAt } from "./nix/nar-info.ts";
export {
  decodeNarInfo,
  formatNarInfo,
  NAR_INFO_BYTES_MAX,
  NAR_INFO_SIGNATURES_MAX,
  parseNarInfo,
} from "./nix/nar-info-text.ts";
export { NETRC_LENGTH_MAX, type NetrcEntry, netrcEntryFor, parseNetrc } from "./nix/netrc.ts";
export {
  NIX_CONFIG_FILES_MAX,
  NIX_CONFIG_LENGTH_MAX,
  type NixConfig,
  readNixConfig,
} from "./nix/nix-config.ts";
export {
  formatSriHash,
  HASH_BYTES,
  type HashAlgorithm,
  type NarHash,
  type NixHash,
  narHashOf,
  narHashOfDigits,
  nixHashAlgorithm,
  nixHashBytes,
  nixHashDigits,
  nixHashOf,
  parseNarHash,
  parseNixHash,
} from "./nix/nix-hash.ts";
export {
  decodeNixbase32,
  encodeNixbase32,
  NIXBASE32_ALPHABET,
  nixbase32Length,
} from "./nix/nixbase32.ts";
export { leavesFirst } from "./nix/reference-order.ts";
export {
  parseSignature,
  type Signature,
  signatureBytes,
  signatureKeyName,
  signatureOf,
  signFingerprint,
  verifySignature,
} from "./nix/signature.ts";
export {
  formatImageFingerprint,
  formatRootFingerprint,
  parseRootSignature,
  type RootSignature,
  RootSigningKey,
  type RootsImage,
  type SignedRoot,
  TrustedRootKeys,
} from "./nix/signed-root.ts";
export {
  formatStorePath,
  isStoreHash,
  isStorePathName,
  NIX_STORE_DIR,
  parseAbsoluteStorePath,
  parseStoreDir,
  parseStoreHash,
  parseStoreLocation,
  parseStorePath,
  STORE_HASH_BYTES,
  STORE_HASH_LENGTH,
  STORE_PATH_NAME_LENGTH_MAX,
  type StoreDir,
  type StoreHash,
  type StorePath,
  type StorePathFault,
  type StorePathLocation,
  storeHashBytes,
  storeHashOf,
  storePathFault,
  storePathHash,
  storePathName,
  storePathOf,
} from "./nix/store-path.ts";
export { type Signed, type Trust, TrustedKeys } from "./nix/trusted-keys.ts";
export { type BarredRootKey, BarredRootKeys } from "./path-infos/barred-root-keys.ts";
export {
  createCachedPathInfoService,
  createFirstPathInfoService,
} from "./path-infos/cached-path-info-service.ts";
export {
  type ClosureImage,
  encodeClosureImage,
  type ImagedPath,
  type ImageKeys,
  openClosureImage,
} from "./path-infos/closure-image.ts";
export {
  createPathInfoGrpcService,
  type PathInfoGrpcOptions,
} from "./path-infos/grpc-path-info-handlers.ts";
export {
  createGrpcPathInfoService,
  type GrpcPathInfoService,
} from "./path-infos/grpc-path-info-service.ts";
export {
  createLocalPathInfoService,
  type LocalPathInfoOptions,
  type LocalPathInfoService,
  type NarSummary,
  type ProvenNar,
} from "./path-infos/local-path-info-service.ts";
export { createObjectStorePathInfoService } from "./path-infos/object-store-path-info-service.ts";
export { narInfoOf, type PathInfo, pathInfoOf } from "./path-infos/path-info.ts";
export {
  decodePathInfo,
  decodeSignedPathInfo,
  encodePathInfo,
  encodeSignedPathInfo,
  PATH_INFO_BYTES_MAX,
} from "./path-infos/path-info-codec.ts";
export {
  createMemoryPathInfoService,
  type PathInfoService,
} from "./path-infos/path-info-service.ts";
export {
  type BinaryCacheUrl,
  openPathInfoService,
  parsePathInfoServiceUrl,
} from "./path-infos/path-info-service-url.ts";
export { RecipeStore } from "./path-infos/recipe-store.ts";
export {
  decodeStoredPathInfo,
  encodeStoredPathInfo,
  type RootProof,
  type StoredPathInfo,
} from "./path-infos/stored-path-info.ts";
export {
  BRIDGE_PRIORITY,
  type BridgeServerOptions,
  createBridgeServer,
} from "./server/bridge-server.ts";
export {
  type CacheGrpcServerOptions,
  createCacheGrpcServer,
  listenGrpc,
} from "./server/cache-grpc-server.ts";
export {
  type CacheServerOptions,
  createCacheServer,
  createReadOnlyCacheServer,
  type ReadOnlyCacheServerOptions,
  SERVE_PRIORITY,
} from "./server/cache-server.ts";
export { createHttpServer, type ListenAddress, listen } from "./server/http-server.ts";
export type { UploadAccess } from "./server/upload-access.ts";
export { BridgeMetrics } from "./substitution/bridge-metrics.ts";
export { CastoreWays, type CastoreWaysOptions } from "./substitution/castore-ways.ts";
export { type SubstitutedPath, substituteClosure } from "./substitution/closure-substitution.ts";
export { ImagedBlobs, type ImagedBlobsOptions } from "./substitution/imaged-blobs.ts";
export { LazyBlobs, type LazyBlobsOptions } from "./substitution/lazy-blobs.ts";
export {
  type BlobSource,
  type BlobSources,
  LazyPaths,
  type LazyPathsOptions,
} from "./substitution/lazy-paths.ts";
export type { ContentsStore } from "./substitution/lazy-ranges.ts";
export type { UpgradeMode } from "./substitution/nar-sources.ts";
export { type PathCost, PathCosts } from "./substitution/path-cost.ts";
export type { NarWay } from "./substitution/price-list.ts";
export {
  createStoreRootNodes,
  type StoreRootNodes,
  type StoreRootNodesOptions,
} from "./substitution/store-root-nodes.ts";
export { Substituter, type SubstituterOptions } from "./substitution/substituter.ts";
export { type AddressScope, addressScope } from "./upstream/address-scope.ts";
export { admitUrl, parseCacheUrl, type UrlPolicy, type UrlPurpose } from "./upstream/admission.ts";
export { type Clock, SYSTEM_CLOCK } from "./upstream/clock.ts";
export {
  type BasicCredentials,
  createHttpClient,
  type HttpClient,
  type HttpClientOptions,
  type HttpHooks,
  type HttpRequest,
} from "./upstream/http-client.ts";
export { contentLength, type HttpResponse, readBody } from "./upstream/http-response.ts";
export { openObjectStoreHttpClient } from "./upstream/object-store-http-client.ts";
export { type DownloadOptions, download } from "./upstream/resumable-download.ts";
export {
  createUpstream,
  type OpenNarOptions,
  type Upstream,
  type UpstreamGetOptions,
  type UpstreamOptions,
} from "./upstream/upstream.ts";
export type { RestEvent } from "./upstream/upstream-rest.ts";
export {
  createUpstreamSet,
  type FoundNarInfo,
  type NarInfoLookup,
  type UpstreamSet,
  type UpstreamSetOptions,
} from "./upstream/upstream-set.ts";
