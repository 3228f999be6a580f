/* A GPU that fails on command: preloaded above the simulated one, it stands where the kernel's driver would.
 * While the file /fault/lost is there, work sent to the GPU is refused as after a reset; while /fault/hang
 * is, it never ends; while /fault/full is, the GPU has no memory left. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <unistd.h>

enum { DRM = 'd', GEM_CREATE = 0x40, CS = 0x44 }; /* <drm/amdgpu_drm.h> */

static int there(const char *file)
{
    return access(file, F_OK) == 0;
}

int ioctl(int file, unsigned long request, ...)
{
    static int (*next)(int, unsigned long, ...);
    int number = request & 0xff, drm = ((request >> 8) & 0xff) == DRM;
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (!next)
        next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    while (drm && number == CS && there("/fault/hang"))
        usleep(10000);
    if (drm && number == CS && there("/fault/lost")) {
        errno = ECANCELED;
        return -1;
    }
    if (drm && number == GEM_CREATE && there("/fault/full")) {
        errno = ENOMEM;
        return -1;
    }
    return next(file, request, argument);
}
