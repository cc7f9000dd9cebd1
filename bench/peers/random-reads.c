/* Reads COUNT blocks of 4 KiB of FILE, each once, in an order without order. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **args) {
  static char block[4096];
  struct stat found;
  if (count != 3) return 2;
  int fd = open(args[1], O_RDONLY);
  if (fd < 0 || fstat(fd, &found) != 0) return perror(args[1]), 1;
  posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  unsigned long blocks = found.st_size / 4096, wanted = strtoul(args[2], 0, 10);
  /* A full cycle through all residues: the step and the number of blocks have no common factor. */
  unsigned long step = 1664525 % blocks | 1, at = 0;
  for (unsigned long a = step, b = blocks; ; step += 2, a = step, b = blocks) {
    while (b) { unsigned long rest = a % b; a = b; b = rest; }
    if (a == 1) break;
  }
  for (unsigned long i = 0; i < wanted && i < blocks; i++, at = (at + step) % blocks) {
    if (pread(fd, block, sizeof block, at * 4096) != sizeof block) return perror(args[1]), 1;
  }
  return 0;
}
