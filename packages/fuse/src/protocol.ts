/**
 * Numbers of the kernel's FUSE protocol, version 7 (include/uapi/linux/fuse.h). All integers on the
 * wire are little endian here: castore runs on x86-64 and arm64.
 */
export const FUSE_MAJOR = 7;
/** Linux 5.4: the oldest that has all structures in the sizes used here. */
export const FUSE_MINOR_MIN = 31;
/** The newest minor whose structures were read for this. */
export const FUSE_MINOR_MAX = 41;

export const OPCODE = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  READLINK: 5,
  OPEN: 14,
  READ: 15,
  STATFS: 17,
  RELEASE: 18,
  GETXATTR: 22,
  LISTXATTR: 23,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  INTERRUPT: 36,
  DESTROY: 38,
  IOCTL: 39,
  BATCH_FORGET: 42,
  READDIRPLUS: 44,
  LSEEK: 46,
} as const;

/** Requests are counted by opcode: all opcodes are below this. */
export const REQUEST_COUNTERS = 64;

/** Bits of INIT's `flags`. */
export const INIT_FLAG = {
  ASYNC_READ: 1 << 0,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  NO_OPEN_SUPPORT: 1 << 17,
  PARALLEL_DIROPS: 1 << 18,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25,
  INIT_EXT: 1 << 30,
} as const;

/** Bits of INIT's `flags2`: bits 32 and up of the protocol's flags. */
export const INIT_FLAG2 = {
  PASSTHROUGH: 1 << 5,
  HAS_RESEND: 1 << 7,
} as const;

/** Bits of an OPEN's answer. */
export const OPEN_FLAG = {
  KEEP_CACHE: 1 << 1,
  CACHE_DIR: 1 << 3,
  PASSTHROUGH: 1 << 7,
} as const;

/** Codes of messages that the kernel did not ask for; they stand in the error field. */
export const NOTIFY = {
  INVAL_INODE: 2,
  INVAL_ENTRY: 3,
  STORE: 4,
  RESEND: 7,
} as const;

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  EAGAIN: 11,
  EACCES: 13,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENOTTY: 25,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  ENOSYS: 38,
  ENODATA: 61,
  EPROTO: 71,
  EOPNOTSUPP: 95,
} as const;

/** The file type bits of a mode, and as READDIR gives them. */
export const MODE = { DIRECTORY: 0o040000, FILE: 0o100000, SYMLINK: 0o120000 } as const;

/** The root's node id. */
export const ROOT_ID = 1;

/** Most bytes that the kernel reads at once: 256 pages. */
export const READ_BYTES_MAX = 1 << 20;

/**
 * The kernel refuses to read a request into less than 8 KiB; only BATCH_FORGET fills what it gets.
 */
export const REQUEST_BYTES_MAX = 64 << 10;
