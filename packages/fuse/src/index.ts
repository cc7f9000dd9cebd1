export { type Mount, type MountOptions, mountStore } from "./mount.ts";
export { type UnmountOptions, unmountFuse } from "./mountpoint.ts";
