export { type Mount, type MountOptions, mountStore, type RequestKind } from "./mount.ts";
export { type UnmountOptions, unmountFuse } from "./mountpoint.ts";
