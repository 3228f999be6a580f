/* A GPU that fails on command: preloaded above the simulated one, it stands where the kernel's driver would.
 * While the file /fault/lost is there, work sent to the GPU is refused as after a reset; while /fault/hang
 * is, it never ends; while /fault/full is, the GPU has no memory left; and while /fault/unused is, a server does
 * not use the GPU that it lists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DRM = 'd', GEM_CREATE = 0x40, CS = 0x44 }; /* <drm/amdgpu_drm.h> */

static int there(const char *file)
{
    return access(file, F_OK) == 0;
}

__attribute__((constructor)) static void leave_unused(void)
{
    if (strncmp(program_invocation_short_name, "llama-server", 12) == 0 && there("/fault/unused"))
        setenv("LLAMA_ARG_DEVICE", "none", 1);
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
