"""The gfx table: what each AMD GPU target is. Data; the questions asked of it are in `catalogue`.

Where it comes from: LLVM's AMDGPU processor table (targets, product names), the kernel's and Mesa's chip
names, vLLM's `PYTORCH_ROCM_ARCH` of 0.11.1 to 0.33.0 (built), vLLM's documentation and trackers (works),
the kernel files in Debian's ROCm 7.2.4 rocBLAS (`debian`), and the targets that AMD's ROCm 7.14 releases
name for their multi-arch packages (`amd`; read from distributions that repackage them, not from AMD's
index). A `rocm_override` is what people set in HSA_OVERRIDE_GFX_VERSION to run another target's kernels.
"""

from __future__ import annotations

from typing import Any

from amdserve.gpu.models import GPUType
from amdserve.values import dataclass

PROVIDERS = ("debian", "amd")


@dataclass(frozen=True, slots=True)
class GfxTarget:
    """One AMD GPU target.

    Args:
        gfx: the LLVM target name.
        products: names people use, the best known first.
        architecture: `GCN 5`, `CDNA 3`, `RDNA 3.5`, …
        family: the same as one word, as `--gfx` takes it: `gcn5`, `cdna3`, `rdna3.5`.
        gpu_type: the kind.
        integrated: an APU that shares the system's memory.
        blas: ROCm providers whose rocBLAS has kernels for it.
        rocm_override: HSA_OVERRIDE_GFX_VERSION that makes it run another target's kernels, or None.
        vllm_built_since: the first vLLM release read whose official builds hold code for it, or None.
        vllm_works_since: the first vLLM release said to work on it, or None.
        notes: what else one should know, and what is uncertain.
    """

    gfx: str
    products: tuple[str, ...]
    architecture: str
    family: str
    gpu_type: GPUType
    integrated: bool = False
    blas: frozenset[str] = frozenset()
    rocm_override: str | None = None
    vllm_built_since: str | None = None
    vllm_works_since: str | None = None
    notes: str = ""

    @property
    def stand_in(self) -> str | None:
        """The gfx whose kernels run under `rocm_override`: 10.3.0 means gfx1030."""
        if self.rocm_override is None:
            return None
        major, minor, step = (int(part) for part in self.rocm_override.split("."))
        return f"gfx{major}{minor:x}{step:x}"

    def to_dict(self) -> dict[str, Any]:
        """Give the target as one JSON object."""
        return {
            "gfx": self.gfx,
            "products": list(self.products),
            "architecture": self.architecture,
            "family": self.family,
            "gpu_type": self.gpu_type.value,
            "integrated": self.integrated,
            "blas": sorted(self.blas),
            "rocm_override": self.rocm_override,
            "vllm_built_since": self.vllm_built_since,
            "vllm_works_since": self.vllm_works_since,
            "notes": self.notes,
        }


def _t(gfx: str, architecture: str, products: str, blas: str = "", **more: Any) -> GfxTarget:
    """Make a row: `products` separated by commas, `blas` by blanks; an APU says so in `more`."""
    kind = {"G": GPUType.AMD_GCN, "C": GPUType.AMD_CDNA, "R": GPUType.AMD_RDNA}[architecture[0]]
    return GfxTarget(
        gfx=gfx,
        products=tuple(name.strip() for name in products.split(",")),
        architecture=architecture,
        family=architecture.replace(" ", "").lower(),
        gpu_type=kind,
        blas=frozenset(blas.split()),
        **more,
    )


_APU: dict[str, Any] = {"integrated": True}
_SOURCE = "vLLM only when built from source."
_NOT_PACKAGED = "In AMD's source tree, but not among the packaged targets of 7.14."
_LAB = "Known to the compiler; no product that people name is known to carry it."

# fmt: off
TARGETS: tuple[GfxTarget, ...] = (
    _t("gfx803", "GCN 4",
       "Polaris, RX 580, RX 570, RX 480, RX 470, RX 590, RX 560, RX 550, Radeon Pro WX 7100, MI6", "debian",
       notes="Also GCN 3's Fiji (R9 Nano, MI8). AMD's ROCm dropped it after 4.x; Vulkan is the safe choice."),
    _t("gfx900", "GCN 5", "Vega 10, MI25, RX Vega 64, RX Vega 56, Vega Frontier Edition, Radeon Pro WX 9100",
       "debian", notes=_NOT_PACKAGED),
    _t("gfx902", "GCN 5", "Raven Ridge, Picasso, Vega 8, Vega 11, Ryzen 5 2400G, Ryzen 5 3400G", **_APU,
       rocm_override="9.0.0", notes="ROCm by override only; Vulkan is the safe choice."),
    _t("gfx904", "GCN 5", "Vega 12, Radeon Pro Vega 20 Mobile",
       rocm_override="9.0.0", notes="Override unproven."),
    _t("gfx906", "GCN 5", "MI50, MI60, Radeon VII, Radeon Pro VII, Vega 20", "debian",
       notes=f"{_SOURCE} {_NOT_PACKAGED}"),
    _t("gfx909", "GCN 5", "Raven Ridge 2, Dali, Athlon 300U", **_APU,
       rocm_override="9.0.0", notes="Override unproven. The kernel reports these chips as gfx902."),
    _t("gfx90c", "GCN 5", "Renoir, Lucienne, Cezanne, Barcelo, Ryzen 7 4700G, Ryzen 7 5700G, Ryzen 5 5600G",
       **_APU, rocm_override="9.0.0", notes=_NOT_PACKAGED),
    _t("gfx908", "CDNA 1", "MI100, Arcturus", "debian amd", notes=_SOURCE),
    _t("gfx90a", "CDNA 2", "MI200, MI210, MI250, MI250X, Aldebaran", "debian amd",
       vllm_built_since="0.11.1", vllm_works_since="0.11.1"),
    _t("gfx942", "CDNA 3", "MI300X, MI300A, MI300, MI308X, MI325X, MI325, Aqua Vanjaram", "debian amd",
       vllm_built_since="0.11.1", vllm_works_since="0.11.1",
       notes="The MI300A is an APU: its PCI device tells. gfx940 and gfx941 were early steppings."),
    _t("gfx950", "CDNA 4", "MI350X, MI355X, MI350, MI355", "amd",
       vllm_built_since="0.11.1", vllm_works_since="0.14.0", notes="Needs ROCm 7.0 or later."),
    _t("gfx1250", "CDNA 5", "MI450, MI455X, MI450X, MI430X, MI400",
       notes=f"CDNA 5 by vLLM's word; vLLM has a Dockerfile of its own for it. {_NOT_PACKAGED}"),
    _t("gfx1251", "CDNA 5", "gfx1251", notes=_LAB),
    _t("gfx1010", "RDNA 1",
       "RX 5700 XT, RX 5700, RX 5600 XT, RX 5600, Navi 10, Radeon Pro W5700, Radeon Pro 5700 XT", "debian",
       notes=_NOT_PACKAGED),
    _t("gfx1011", "RDNA 1", "Radeon Pro V520, Radeon Pro 5600M, Navi 12",
       rocm_override="10.1.0", notes=_NOT_PACKAGED),
    _t("gfx1012", "RDNA 1", "RX 5500 XT, RX 5500, RX 5300, Navi 14, Radeon Pro W5500, Radeon Pro 5500 XT",
       rocm_override="10.1.0", notes=_NOT_PACKAGED),
    _t("gfx1013", "RDNA 1", "BC-250, Cyan Skillfish", **_APU,
       rocm_override="10.1.0", notes="Override unproven."),
    _t("gfx1030", "RDNA 2",
       "RX 6800, RX 6800 XT, RX 6900 XT, RX 6950 XT, Navi 21, Radeon Pro W6800, Radeon Pro V620",
       "debian amd", notes=_SOURCE),
    _t("gfx1031", "RDNA 2", "RX 6700 XT, RX 6750 XT, RX 6700, RX 6800M, RX 6700M, Navi 22",
       rocm_override="10.3.0", notes=_NOT_PACKAGED),
    _t("gfx1032", "RDNA 2", "RX 6600 XT, RX 6600, RX 6650 XT, RX 6600M, RX 6700S, RX 6800S, Navi 23, "
       "Radeon Pro W6600", rocm_override="10.3.0", notes=_NOT_PACKAGED),
    _t("gfx1033", "RDNA 2", "Van Gogh, Steam Deck", **_APU, rocm_override="10.3.0", notes=_NOT_PACKAGED),
    _t("gfx1034", "RDNA 2", "RX 6500 XT, RX 6400, RX 6300, RX 6500M, Navi 24, Radeon Pro W6400",
       rocm_override="10.3.0", notes=_NOT_PACKAGED),
    _t("gfx1035", "RDNA 2", "Rembrandt, Radeon 680M, Radeon 660M, Ryzen 7 6800H, Ryzen 7 6800U", **_APU,
       rocm_override="10.3.0", notes=_NOT_PACKAGED),
    _t("gfx1036", "RDNA 2",
       "Raphael, Granite Ridge, Mendocino, Radeon 610M, Ryzen 9 7950X, Ryzen 9 9950X", **_APU,
       rocm_override="10.3.0", notes="Two CUs: enough for a desktop; the CPU beside it serves faster."),
    _t("gfx1100", "RDNA 3",
       "RX 7900 XTX, RX 7900 XT, RX 7900 GRE, RX 7900, Navi 31, Radeon Pro W7900, Radeon Pro W7800, RX 7900M",
       "debian amd", vllm_built_since="0.11.1", vllm_works_since="0.11.1"),
    _t("gfx1101", "RDNA 3",
       "RX 7800 XT, RX 7700 XT, RX 7800, RX 7700, Navi 32, Radeon Pro W7700, Radeon Pro V710",
       "debian amd", vllm_built_since="0.11.1", vllm_works_since="0.14.0"),
    _t("gfx1102", "RDNA 3",
       "RX 7600, RX 7600 XT, RX 7700S, RX 7600S, RX 7600M XT, RX 7400, Navi 33, "
       "Radeon Pro W7600, Radeon Pro W7500",
       "debian amd", notes=_SOURCE),
    _t("gfx1103", "RDNA 3",
       "Phoenix, Hawk Point, Radeon 780M, Radeon 760M, Radeon 740M, Ryzen 7 7840U, Ryzen 7 7840HS, "
       "Ryzen 7 8840U, Ryzen 7 8700G, Ryzen Z1 Extreme",
       "amd", **_APU, rocm_override="11.0.2", notes=_SOURCE),
    _t("gfx1150", "RDNA 3.5",
       "Strix Point, Radeon 890M, Radeon 880M, Ryzen AI 9 HX 370, Ryzen AI 9 HX 375, Ryzen AI 9 365, "
       "HX 370, HX 375",
       "amd", **_APU, rocm_override="11.5.1", vllm_built_since="0.11.1",
       notes="vLLM's documentation lists it (ROCm 7.0.2 or later), no report of it serving is known. "
       "Override unproven."),
    _t("gfx1151", "RDNA 3.5",
       "Strix Halo, Radeon 8060S, Radeon 8050S, Radeon 8040S, Ryzen AI Max+ 395, Ryzen AI Max 390, "
       "Ryzen AI Max 385, Ryzen AI Max 380, Framework Desktop, GMKtec EVO-X2",
       "debian amd", **_APU, vllm_built_since="0.11.1", vllm_works_since="0.16.0",
       notes="vLLM needs ROCm 7.0.2 or later. ROCm gave wrong text on gfx115x for weeks in 2026: prefer "
       "Vulkan. Embeddings are safer on the CPU."),
    _t("gfx1152", "RDNA 3.5", "Krackan Point, Radeon 860M, Radeon 840M, Ryzen AI 7 350, Ryzen AI 5 340",
       "amd", **_APU, rocm_override="11.5.1", notes=f"{_SOURCE} Override unproven."),
    _t("gfx1153", "RDNA 3.5", "Krackan 2, Radeon 820M, Radeon 840M", "amd", **_APU,
       rocm_override="11.5.1", notes=f"{_SOURCE} Override unproven."),
    _t("gfx1154", "RDNA 3.5", "gfx1154", **_APU, notes=f"{_LAB} Said to be a Medusa APU."),
    _t("gfx1170", "RDNA 4m", "gfx1170", **_APU,
       notes=f"{_LAB} A Medusa APU, numbered with gfx11; its matrix instructions are gfx12's."),
    _t("gfx1171", "RDNA 4m", "gfx1171", **_APU, notes=f"{_LAB} A Medusa APU."),
    _t("gfx1172", "RDNA 4m", "gfx1172", **_APU, notes=f"{_LAB} A Medusa APU."),
    _t("gfx1200", "RDNA 4", "RX 9060 XT, RX 9060, Navi 44", "debian amd",
       vllm_built_since="0.11.1", vllm_works_since="0.14.0"),
    _t("gfx1201", "RDNA 4",
       "RX 9070 XT, RX 9070, RX 9070 GRE, Radeon AI PRO R9700, Radeon AI PRO R9600D, Navi 48",
       "debian amd", vllm_built_since="0.11.1", vllm_works_since="0.14.0"),
)
# fmt: on
