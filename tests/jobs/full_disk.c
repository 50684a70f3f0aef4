/* Preloaded below the C library's callers: from the N-th write, new file or new folder under a prefix on,
 * the disk is full. UBQ_FULL_PREFIX is the prefix; UBQ_FULL_AT is N, from 1; UBQ_FULL_COUNT names a file that
 * gets the number of such calls when the process ends. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;

static int under(const char *path) {
    const char *prefix = getenv("UBQ_FULL_PREFIX");
    return prefix && path && strncmp(path, prefix, strlen(prefix)) == 0;
}

static int full(void) {
    const char *at = getenv("UBQ_FULL_AT");
    long now = atomic_fetch_add(&calls, 1) + 1;
    return at && now >= atol(at);
}

static int full_descriptor(int descriptor) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return under(path) && full();
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    if (full_descriptor(descriptor)) {
        /* Like a real disk: what still fits is written, the rest is not. */
        if (bytes > 1) return real(descriptor, data, bytes / 2) < 0 ? -1 : (errno = ENOSPC, -1);
        errno = ENOSPC;
        return -1;
    }
    return real(descriptor, data, bytes);
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    static int (*real)(int, const char *, int, ...);
    if (!real) real = dlsym(RTLD_NEXT, "openat");
    if ((flags & O_CREAT) && under(path) && access(path, F_OK) != 0 && full()) {
        errno = ENOSPC;
        return -1;
    }
    return real(folder, path, flags, mode);
}

#define MODE(flags, mode) mode_t mode = 0; if ((flags) & O_CREAT) { \
    va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) { MODE(flags, mode) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return open_at(AT_FDCWD, path, flags, mode); }

int mkdir(const char *path, mode_t mode) {
    static int (*real)(const char *, mode_t);
    if (!real) real = dlsym(RTLD_NEXT, "mkdir");
    if (under(path) && access(path, F_OK) != 0 && full()) {
        errno = ENOSPC;
        return -1;
    }
    return real(path, mode);
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("UBQ_FULL_COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", atomic_load(&calls));
        fclose(file);
    }
}
