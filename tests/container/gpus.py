"""Two GPUs that no machine needs to have: one that computes on the CPU, one that fails on command.

The first is lavapipe: Vulkan that really computes, slowly. The second is AMD's own driver (RADV) over a
simulated device: real enumeration, real compilation of shaders, and nothing is ever computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docker.types import Mount

ROOT = Path(__file__).resolve().parents[2]
CACHE, MACHINE, FAULTS, LAVAPIPE = "/cache", "/machine", "/fault", "/lavapipe"
SHIM = "/usr/lib/x86_64-linux-gnu/libamdgpu_noop_drm_shim.so"

# What no production image has: the simulated device, and the faults above it.
LAYER = """
COPY fault.c /usr/src/fault.c
RUN apt-get update && apt-get install -y --no-install-recommends mesa-drm-shim gcc libc6-dev \\
    && gcc -shared -fPIC -O1 -Wall -Werror -o /usr/lib/fault.so /usr/src/fault.c
"""


# No production image has it: Debian's package brings it, with what it needs and the image has not.
LAVAPIPE_STAGE = f"""
RUN ls /usr/lib/x86_64-linux-gnu > /before \\
    && apt-get update && apt-get install -y --no-install-recommends mesa-vulkan-drivers \\
    && mkdir {LAVAPIPE} && cd /usr/lib/x86_64-linux-gnu && cp libvulkan_lvp.so {LAVAPIPE}/ \\
    && ldd libvulkan_lvp.so | sed -n 's/^\\s*\\(\\S*\\) => .*/\\1/p' | grep -vxFf /before \\
    | xargs cp -Lt {LAVAPIPE} \\
    && sed 's|"library_path": ".*"|"library_path": "{LAVAPIPE}/libvulkan_lvp.so"|' \\
        /usr/share/vulkan/icd.d/lvp_icd.json > {LAVAPIPE}/icd.json
FROM scratch
COPY --from=0 {LAVAPIPE} /
"""


def bind(source: Path, target: str, *, read_only: bool = True) -> Mount:
    """Mount a folder of this host."""
    return Mount(target, str(source), type="bind", read_only=read_only)


class Lavapipe:
    """A Vulkan device that computes on the CPU.

    Args:
        driver: folder with what `LAVAPIPE_STAGE` gives.
        cache: folder for compiled shaders; the first start takes minutes without it.
    """

    def __init__(self, driver: Path, cache: Path) -> None:
        self.driver, self.cache = driver, cache

    def __call__(self, **environment: str) -> dict[str, Any]:
        """Give the options of a container that has it."""
        own = {"GGML_VK_VISIBLE_DEVICES": "0", "XDG_CACHE_HOME": CACHE}
        mounts = [*self.alone()["mounts"], bind(self.cache, CACHE, read_only=False)]
        return {"environment": {**self.alone()["environment"], **own, **environment}, "mounts": mounts}

    def alone(self) -> dict[str, Any]:
        """Give the options of a container that has the driver, and no word that its device may be used."""
        named = dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), f"{LAVAPIPE}/icd.json")
        environment = {**named, "LD_LIBRARY_PATH": LAVAPIPE}
        return {"environment": environment, "mounts": [bind(self.driver, LAVAPIPE)]}


class Broken:
    """A simulated AMD GPU, in a machine whose `/sys` says that it is a Strix Halo, and its faults.

    Args:
        folder: of this test; while a file named after a fault is there, the GPU has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.chmod(0o755)

    def __call__(self, **environment: str) -> dict[str, Any]:
        """Give the options of a container that has it, without the self-test: it computes nothing."""
        own = {
            "LD_PRELOAD": f"/usr/lib/fault.so:{SHIM}",
            "AMDGPU_GPU_ID": "strix1",
            "AMDSERVE_SYSROOT": MACHINE,
            "AMDSERVE_SELFTEST": "false",
        }
        machine = ROOT / "tests/fixtures/machines/strix-halo"
        mounts = [bind(machine, MACHINE), bind(self.folder, FAULTS)]
        return {"environment": {**own, **environment}, "mounts": mounts}

    def fails(self, fault: str) -> None:
        """Have it fail from now on: `lost`, `hang`, `full` or `unused`."""
        (self.folder / fault).touch()
