"""An image with stubs of llama-bench in it, on a machine laid out as a folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from amdserve.serve import refmodel, state

ROOT = Path(__file__).resolve().parents[3]
MACHINES = ROOT / "tests" / "fixtures" / "machines"
STUB = Path(__file__).with_name("llama_bench_stub.py")
VULKAN, ROCM, CPU = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python"
FOLDERS = {VULKAN: "vulkan", ROCM: "rocm", CPU: "cpu"}
RATES = {VULKAN: (1243.0, 62.8), ROCM: (1604.0, 53.5)}
DEVICES = {
    VULKAN: "Vulkan0: AMD Radeon 8060S (RADV GFX1151) (96000 MiB, 95000 MiB free)",
    ROCM: "ROCm0: AMD Radeon 8060S, gfx1151 (96000 MiB, 95000 MiB free)",
}
# A grid that a stub is through in a moment.
SMALL = (
    "--prompts",
    "64,256",
    "--generate",
    "16",
    "--depths",
    "0,128",
    "--ubatch",
    "64,256",
    "--repeat",
    "2",
)


class Bed:
    """What one test runs in: Vulkan, ROCm and the CPU, on a Strix Halo.

    Args:
        folder: for everything that is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir()
        self.record = folder / "record"
        self.model = folder / "model.gguf"
        refmodel.make(self.model)
        self.machine = folder / "machine"
        shutil.copytree(MACHINES / "strix-halo", self.machine, symlinks=True)
        for name in (VULKAN, ROCM):
            self.lists(name, DEVICES[name])
            self.stub(name)
        self.image()

    def place(self, backend: str) -> Path:
        return self.folder / FOLDERS[backend]

    def lists(self, backend: str, *devices: str) -> None:
        """Have the backend's server list these devices."""
        script = "\n".join(["#!/bin/sh", "echo Available devices:", *(f"echo '  {one}'" for one in devices)])
        self._program(self.place(backend) / "llama-server", script + "\n")

    def stub(self, backend: str, **behaviour: Any) -> None:
        """Install the backend's llama-bench."""
        prefill, generation = RATES[backend]
        plan = {"prefill": prefill, "generation": generation, "record": str(self.record), **behaviour}
        program = self.place(backend) / "llama-bench"
        self._program(program, f"#!{sys.executable}\n{STUB.read_text('utf-8')}")
        program.with_suffix(".json").write_text(json.dumps(plan), encoding="utf-8")

    def image(self, *backends: str, digest: str = "sha256:1") -> None:
        """Write the image's description."""
        held = backends or (VULKAN, ROCM, CPU)
        data = {
            "schema": 1,
            "amdserve": "0.1.0",
            "image": "llama",
            "hash": digest,
            "gfx": ["gfx1151"],
            "rocm": {"provider": "debian", "version": "7.2.4", "prefix": "/usr"},
            "llama": {
                "package": "llama-cpp-python",
                "version": "0",
                "commit": "0c1e57098",
                "source": "sdist",
            },
            "vulkan": {"icd": "/usr/share/vulkan/icd.d/radeon_icd.json"},
            "backends": {
                name: {"argv": [str(self.place(name) / "llama-server")], "dir": str(self.place(name))}
                for name in held
            },
        }
        (self.folder / "image.json").write_text(json.dumps(data), encoding="utf-8")

    def environ(self, **changes: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("AMDSERVE_", "GGML_", "VK_", "HIP_"))}
        return {
            **own,
            "AMDSERVE_STATE_DIR": str(self.state),
            "AMDSERVE_IMAGE_JSON": str(self.folder / "image.json"),
            "AMDSERVE_SYSROOT": str(self.machine),
            **changes,
        }

    def amdserve(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        argv = [sys.executable, "-m", "amdserve.serve.entry", *words]
        return subprocess.run(
            argv, env=self.environ(**environ), capture_output=True, text=True, timeout=120, check=False
        )

    def bench(self, *words: str, code: int = 0, **environ: str) -> dict[str, Any]:
        """Measure; give the result."""
        done = self.amdserve("bench", str(self.model), *SMALL, "--json", *words, **environ)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def plan(self, *words: str) -> dict[str, Any]:
        """Give what `serve` would do."""
        done = self.amdserve("serve", "--dry-run", "--json", str(self.model), *words)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def calls(self) -> list[list[str]]:
        """Give each command line of a llama-bench, after the name of its folder."""
        return [json.loads(line) for line in self.record.read_text("utf-8").splitlines()]

    def memory(self) -> dict[str, Any]:
        return state.read_object(self.state / "memory.json") or {}

    def _program(self, path: Path, text: str) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
