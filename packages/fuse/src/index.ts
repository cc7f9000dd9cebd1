export { buildErofsImage, type ErofsSources } from "./erofs-image.ts";
export { ImageNeighbours } from "./image-neighbours.ts";
export { buildKernelImage, type KernelImageOptions } from "./kernel-image.ts";
export { type KernelMountOptions, mountKernel } from "./kernel-mount.ts";
export { type Mount, type MountOptions, mountStore } from "./mount.ts";
export type { RequestKind } from "./mount-server.ts";
export { isCastoreMount, type UnmountOptions, unmountFuse } from "./mountpoint.ts";
export {
  INHERITED_MOUNT,
  type InheritedMount,
  type SupervisedMount,
  type SupervisorOptions,
  superviseMount,
} from "./supervisor.ts";
export { formatTouch, parseTrace, type Touch } from "./trace.ts";
