"""Asks the Vulkan loader which driver each device has, in the driver's own words.

Run as `python -m amdserve.serve.bench.vulkan`, in a process of its own: a broken driver ends only that. It
prints one JSON list of `{"device", "driver", "info"}`; the image has no vulkaninfo.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

LIBRARY = "libvulkan.so.1"
APPLICATION, INSTANCE, PROPERTIES, DRIVER = 0, 1, 1000059001, 1000196000
VERSION_1_2 = 1 << 22 | 2 << 12
# VkPhysicalDeviceProperties begins with five 32-bit numbers; the name follows.
NAME_AT = 16 + 5 * 4
TEXT = 256


class _Application(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api", ctypes.c_uint32),
    )


class _Create(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class _Driver(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_char * TEXT),
        ("info", ctypes.c_char * TEXT),
        ("conformance", ctypes.c_uint8 * 4),
    )


def devices(library: str = LIBRARY) -> list[dict[str, str]]:
    """Give each Vulkan device and its driver.

    Raises:
        OSError: there is no Vulkan loader.
        RuntimeError: it has no driver that answers.
    """
    loader: Any = ctypes.CDLL(library)
    application = _Application(kind=APPLICATION, api=VERSION_1_2)
    create = _Create(kind=INSTANCE, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if loader.vkCreateInstance(ctypes.byref(create), None, ctypes.byref(instance)) != 0:
        raise RuntimeError("no Vulkan driver answers")
    count = ctypes.c_uint32()
    loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    found = [_one(loader, handle) for handle in handles if handle]
    loader.vkDestroyInstance(instance, None)
    return found


def _one(loader: Any, handle: int) -> dict[str, str]:
    driver = _Driver(kind=DRIVER)
    # VkPhysicalDeviceProperties2: type, next, then 824 bytes of properties.
    properties = ctypes.create_string_buffer(16 + 1024)
    ctypes.c_uint32.from_buffer(properties).value = PROPERTIES
    ctypes.c_void_p.from_buffer(properties, 8).value = ctypes.addressof(driver)
    loader.vkGetPhysicalDeviceProperties2(ctypes.c_void_p(handle), properties)
    name = properties.raw[NAME_AT : NAME_AT + TEXT].split(b"\0", 1)[0]
    return {
        "device": name.decode("utf-8", "replace"),
        "driver": driver.name.decode("utf-8", "replace"),
        "info": driver.info.decode("utf-8", "replace"),
    }


def main() -> int:
    """Print what is there; exit with 1 where there is nothing."""
    try:
        print(json.dumps(devices()))
    except (OSError, RuntimeError, AttributeError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
