"""An image as `verify` sees it: a good one, which tests then break in one place each."""

from __future__ import annotations

from typing import Any

from amdserve.image.verify.seen import Expected, Seen

HELP = """\
usage: llama-server [options]

-h,    --help, --usage                  print usage and exit
-c,    --ctx-size N                     size of the prompt context (default: 0, see --n-keep)
                                        --mlock is no longer an option
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
-cb,   --cont-batching, -nocb, --no-cont-batching
                                        whether to enable continuous batching
--list-devices                          print list of available devices and exit
"""
CPU_HELP = """\
usage: cpu_server [-h] --model FILE [--mlock | --no-mlock]

options:
  -h, --help           show this help
  --model FILE         the model
  --mlock, --no-mlock  lock it in memory
"""
VARIANTS = ("libggml-cpu-x64.so", "libggml-cpu-haswell.so", "libggml-cpu-cooperlake.so")
ICD = "/usr/share/vulkan/icd.d/radeon_icd.json"
BACKENDS = ("llama-server-vulkan", "llama-server-rocm", "llama-cpp-python")
NOTHING = "Available devices:\n  (none)\n"


def ran(out: str = "", err: str = "", code: int = 0) -> dict[str, Any]:
    return {"exit": code, "out": out, "err": err}


def attributes() -> dict[str, Any]:
    labels = {
        "org.opencontainers.image.title": "amdserve llama-gfx1151",
        "org.opencontainers.image.description": "Vulkan, ROCm and the CPU",
        "org.opencontainers.image.version": "0.1.0",
        "org.opencontainers.image.licenses": "MIT",
        "io.amdserve.image": "llama",
        "io.amdserve.cell": "llama-gfx1151",
        "io.amdserve.hash": "sha256:abc",
        "io.amdserve.gfx": "gfx1151",
        "io.amdserve.backends": ",".join(BACKENDS),
        "io.amdserve.llama.version": "0.3.36",
        "io.amdserve.llama.commit": "0c1e57098",
        "io.amdserve.inputs": '{"LICENSE": "123"}',
    }
    config = {
        "Env": [
            "PATH=/usr/bin",
            f"VK_ICD_FILENAMES={ICD}",
            f"VK_DRIVER_FILES={ICD}",
            "ROCM_PATH=/usr",
            "HIP_PATH=/usr",
        ],
        "Labels": labels,
        "Healthcheck": {"Test": ["CMD", "amdserve", "health"]},
        "ExposedPorts": {"8080/tcp": {}},
        "Entrypoint": ["tini", "-g", "--", "amdserve"],
        "Cmd": ["serve"],
        "User": "",
    }
    return {"Id": "sha256:1", "Size": 528_000_000, "Os": "linux", "Architecture": "amd64", "Config": config}


def facts() -> dict[str, Any]:
    def server(err: str) -> dict[str, Any]:
        said = "version: 0 (0c1e57098)\nbuilt with GNU 16\n"
        return {
            "help": ran(HELP),
            "recorded": HELP,
            "version": ran(err=said),
            "devices": ran(NOTHING, err),
        }

    def link(real: str) -> dict[str, Any]:
        return {"real": real, "runs": True}

    links = {"/usr/local/bin/amdserve": link("/opt/amdserve/bin/amdserve")}
    for kind in ("vulkan", "rocm"):
        for what in ("server", "bench"):
            links[f"/usr/local/bin/llama-{what}-{kind}"] = link(f"/opt/llama/{kind}/llama-{what}")
    for what in ("server", "bench"):
        links[f"/usr/local/bin/llama-{what}"] = link(f"/opt/llama/vulkan/llama-{what}")
    plain = dict.fromkeys(VARIANTS, "")
    clean: dict[str, list[str]] = {"missing": [], "foreign": []}
    hip = "/opt/llama/rocm/libggml-hip.so"
    return {
        "image": {
            "image": "llama",
            "cell": "llama-gfx1151",
            "hash": "sha256:abc",
            "gfx": ["gfx1151"],
            "rocm": {"provider": "debian", "version": "7.2.4", "prefix": "/usr"},
            "llama": {"commit": "0c1e57098"},
            "vulkan": {"icd": ICD},
            "backends": {name: {} for name in BACKENDS},
        },
        "tools": [],
        "caches": [],
        "links": links,
        "places": {
            "/models": {"folder": True, "mode": 0o755},
            "/var/lib/amdserve": {"folder": True, "mode": 0o1777},
        },
        "users": {"name": "amdserve", "uid": 10001},
        "icds": {ICD: {"library": "libvulkan_radeon.so", "load": ""}},
        "libraries": {
            "/opt/llama/vulkan/llama-server": clean,
            hip: clean,
            "/opt/llama/cpu/libllama.so": clean,
        },
        "plugins": {
            "/opt/llama/vulkan": {**plain, "libggml-vulkan.so": ""},
            "/opt/llama/rocm": {**plain, "libggml-hip.so": ""},
            "/opt/llama/cpu": dict(plain),
        },
        "runtime": {"hip": "/usr/lib/libamdhip64.so.7", "loads": {"libamd_comgr.so.3": ""}},
        "offload": {hip: {"bundles": 140, "targets": {"gfx1151": 140}, "empty": []}},
        "kernels": {
            "rocblas": {
                "libraries": ["/usr/lib/librocblas.so.5.2"],
                "folders": ["/usr/lib/rocblas/5/library"],
                "files": {"gfx1151": 96},
                "bytes": 20_000_000,
            },
            "hipblaslt": {"libraries": [], "folders": [], "files": {}, "bytes": 0},
        },
        "programs": {
            "llama-server-vulkan": server(""),
            "llama-server-rocm": server("failed to initialize ROCm: no ROCm-capable device is detected"),
            "llama-cpp-python": {"help": ran(CPU_HELP), "recorded": CPU_HELP},
        },
        "flags": {
            "llama-server-vulkan": ["--ctx-size", "--flash-attn", "--no-cont-batching"],
            "llama-server-rocm": ["--ctx-size", "--flash-attn", "--list-devices"],
            "llama-cpp-python": ["--model", "--no-mlock"],
        },
        "reference": {"answers": 10, "bytes": 1_318_656},
        "command": ran("amdserve 0.1.0\n"),
    }


def good() -> Seen:
    return Seen(attributes(), Expected("llama", ("gfx1151",), BACKENDS), facts(), budget_mb=2600)
