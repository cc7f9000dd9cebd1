/* stat(2) of DIRECTORY/file-0 to file-N: one LOOKUP each where none is cached. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int main(int count, char **args) {
  char path[4096];
  struct stat found;
  if (count != 3) return 2;
  for (int i = 0, n = atoi(args[2]); i < n; i++) {
    snprintf(path, sizeof path, "%s/file-%d", args[1], i);
    if (stat(path, &found) != 0) return perror(path), 1;
  }
  return 0;
}
