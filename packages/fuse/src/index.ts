export { type Mount, type MountOptions, mountStore, type RequestKind } from "./mount.ts";
export { type UnmountOptions, unmountFuse } from "./mountpoint.ts";
export {
  INHERITED_MOUNT,
  type InheritedMount,
  type SupervisedMount,
  type SupervisorOptions,
  superviseMount,
} from "./supervisor.ts";
