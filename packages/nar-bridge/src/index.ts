export { type AddressScope, addressScope } from "./address-scope.ts";
export { admitUrl, parseCacheUrl, type UrlPolicy, type UrlPurpose } from "./admission.ts";
export { BridgeMetrics, type NarWay } from "./bridge-metrics.ts";
export { BRIDGE_PRIORITY, type BridgeServerOptions, createBridgeServer } from "./bridge-server.ts";
export {
  type CacheGrpcServerOptions,
  createCacheGrpcServer,
  listenGrpc,
} from "./cache-grpc-server.ts";
export {
  CACHE_INFO_LENGTH_MAX,
  type CacheInfo,
  formatCacheInfo,
  parseCacheInfo,
  parseUpgrade,
  type Upgrade,
} from "./cache-info.ts";
export {
  type CacheServerOptions,
  createCacheServer,
  createReadOnlyCacheServer,
  type ReadOnlyCacheServerOptions,
  SERVE_PRIORITY,
} from "./cache-server.ts";
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
} from "./cache-url.ts";
export {
  createCachedPathInfoService,
  createFirstPathInfoService,
} from "./cached-path-info-service.ts";
export { CastoreWays, type CastoreWaysOptions } from "./castore-ways.ts";
export { type Clock, SYSTEM_CLOCK } from "./clock.ts";
export { type SubstitutedPath, substituteClosure } from "./closure-substitution.ts";
export {
  COMPRESSIONS,
  type Compression,
  type CompressOptions,
  compress,
  type DecompressOptions,
  decompress,
  parseCompression,
} from "./compression.ts";
export {
  type ContentAddress,
  type ContentAddressed,
  contentAddressedPath,
  formatContentAddress,
  isContentAddressed,
  type MaybeContentAddressed,
  parseContentAddress,
} from "./content-address.ts";
export { type ContentCheck, createContentCheck, SELF_REFERENCES_MAX } from "./content-check.ts";
export { CASTORE_CUT_ID, DEDUP_CUTS, type DedupCut } from "./dedup-cut.ts";
export { renderDedupPage } from "./dedup-page.ts";
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
} from "./dedup-report.ts";
export {
  type SurveyOptions,
  type SurveyPair,
  type SurveyProgress,
  surveyDedup,
} from "./dedup-survey.ts";
export { formatDedupTable } from "./dedup-table.ts";
export { KEY_NAME_LENGTH_MAX, PublicKey, SecretKey, SIGNATURE_BYTES } from "./ed25519-key.ts";
export {
  type ExportedPath,
  type ExportOptions,
  type ExportReport,
  type ExportSource,
  exportClosure,
} from "./export-closure.ts";
export type { ExportCompression, ExportedNar } from "./export-nar.ts";
export { acceptedFingerprints, type Fingerprinted, formatFingerprint } from "./fingerprint.ts";
export { createPathInfoGrpcService, type PathInfoGrpcOptions } from "./grpc-path-info-handlers.ts";
export { createGrpcPathInfoService, type GrpcPathInfoService } from "./grpc-path-info-service.ts";
export {
  type BasicCredentials,
  createHttpClient,
  type HttpClient,
  type HttpClientOptions,
  type HttpHooks,
  type HttpRequest,
} from "./http-client.ts";
export { contentLength, type HttpResponse, readBody } from "./http-response.ts";
export { createHttpServer, type ListenAddress, type Log, listen } from "./http-server.ts";
export {
  createLocalPathInfoService,
  type LocalPathInfoOptions,
  type LocalPathInfoService,
  type NarSummary,
  type ProvenNar,
} from "./local-path-info-service.ts";
export { type NarInfo, type NarInfoQuirk, narInfoServedAt } from "./nar-info.ts";
export {
  decodeNarInfo,
  formatNarInfo,
  NAR_INFO_BYTES_MAX,
  NAR_INFO_SIGNATURES_MAX,
  parseNarInfo,
} from "./nar-info-text.ts";
export {
  createNarIngest,
  INGEST_HELD_BYTES_MAX,
  INGEST_PUTS_MAX,
  INGEST_SMALL_FILE_BYTES_MAX,
  type IngestedNar,
  type IngestNarOptions,
  ingestNar,
  type NarIngest,
} from "./nar-ingest.ts";
export {
  createNarLayout,
  NAR_LITERAL_BYTES_MAX,
  type NarLayout,
  type NarServices,
} from "./nar-layout.ts";
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
} from "./nar-listing.ts";
export {
  createNarReader,
  type NarFileHead,
  type NarReader,
  type NarVisitor,
} from "./nar-reader.ts";
export { calculateNar, type NarIdentity, narSizeOf, renderNar } from "./nar-render.ts";
export { NAR_DEPTH_MAX } from "./nar-token.ts";
export { NETRC_LENGTH_MAX, type NetrcEntry, netrcEntryFor, parseNetrc } from "./netrc.ts";
export {
  NIX_CONFIG_FILES_MAX,
  NIX_CONFIG_LENGTH_MAX,
  type NixConfig,
  readNixConfig,
} from "./nix-config.ts";
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
} from "./nix-hash.ts";
export {
  decodeNixbase32,
  encodeNixbase32,
  NIXBASE32_ALPHABET,
  nixbase32Length,
} from "./nixbase32.ts";
export { openObjectStoreHttpClient } from "./object-store-http-client.ts";
export { createObjectStorePathInfoService } from "./object-store-path-info-service.ts";
export { narInfoOf, type PathInfo, pathInfoOf } from "./path-info.ts";
export {
  decodePathInfo,
  decodeSignedPathInfo,
  encodePathInfo,
  encodeSignedPathInfo,
  PATH_INFO_BYTES_MAX,
} from "./path-info-codec.ts";
export { createMemoryPathInfoService, type PathInfoService } from "./path-info-service.ts";
export {
  type BinaryCacheUrl,
  openPathInfoService,
  parsePathInfoServiceUrl,
} from "./path-info-service-url.ts";
export { RecipeStore } from "./recipe-store.ts";
export { type DownloadOptions, download } from "./resumable-download.ts";
export {
  parseSignature,
  type Signature,
  signatureBytes,
  signatureKeyName,
  signatureOf,
  signFingerprint,
  verifySignature,
} from "./signature.ts";
export {
  formatRootFingerprint,
  parseRootSignature,
  type RootSignature,
  RootSigningKey,
  type SignedRoot,
  TrustedRootKeys,
} from "./signed-root.ts";
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
} from "./store-path.ts";
export {
  createStoreRootNodes,
  type StoreRootNodes,
  type StoreRootNodesOptions,
} from "./store-root-nodes.ts";
export {
  decodeStoredPathInfo,
  encodeStoredPathInfo,
  type RootProof,
  type StoredPathInfo,
} from "./stored-path-info.ts";
export { Substituter, type SubstituterOptions, type UpgradeMode } from "./substituter.ts";
export { type Signed, type Trust, TrustedKeys } from "./trusted-keys.ts";
export type { UploadAccess } from "./upload-access.ts";
export {
  createUpstream,
  type OpenNarOptions,
  type Upstream,
  type UpstreamGetOptions,
  type UpstreamOptions,
} from "./upstream.ts";
export type { RestEvent } from "./upstream-rest.ts";
export {
  createUpstreamSet,
  type FoundNarInfo,
  type NarInfoLookup,
  type UpstreamSet,
  type UpstreamSetOptions,
} from "./upstream-set.ts";
