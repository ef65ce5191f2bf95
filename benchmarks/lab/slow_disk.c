/* A disk that takes its time: with LD_PRELOAD, each fdatasync of a Redis takes 3 s while the file SLOW_DISK exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*plain)(int);
    const char *slow = getenv("SLOW_DISK");
    int redis = strncmp(program_invocation_short_name, "redis", 5) == 0 ||
                strncmp(program_invocation_short_name, "valkey", 6) == 0;
    if (redis && slow != NULL && access(slow, F_OK) == 0)
        usleep(3000000);
    if (plain == NULL)
        plain = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return plain(fd);
}
