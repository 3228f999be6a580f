"""The gfx table and the names people type."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amdserve.errors import UsageError
from amdserve.gpu import GPUType
from amdserve.gpu.catalogue import (
    CATALOGUE,
    PROVIDERS,
    gpu_type_of,
    has_blas,
    known_names,
    lookup,
    markdown_table,
    providers_with_blas,
    resolve,
)

# What Debian's rocBLAS 7.2.4 ships kernels for, and what vLLM compiles: from the facts, not from the table.
DEBIAN_BLAS = {
    "gfx803",
    "gfx900",
    "gfx906",
    "gfx908",
    "gfx90a",
    "gfx942",
    "gfx1010",
    "gfx1030",
    "gfx1100",
    "gfx1101",
    "gfx1102",
    "gfx1151",
    "gfx1200",
    "gfx1201",
}
VLLM_BUILT = {
    "gfx90a",
    "gfx942",
    "gfx950",
    "gfx1100",
    "gfx1101",
    "gfx1150",
    "gfx1151",
    "gfx1200",
    "gfx1201",
}


def test_blas_of_debian_is_what_was_found_in_its_package() -> None:
    assert {gfx for gfx in CATALOGUE if has_blas(gfx, "debian")} == DEBIAN_BLAS


def test_vllm_is_built_for_what_its_dockerfile_names() -> None:
    assert {gfx for gfx, target in CATALOGUE.items() if target.vllm_built_since} == VLLM_BUILT
    assert (CATALOGUE["gfx1151"].vllm_built_since, CATALOGUE["gfx1151"].vllm_works_since) == (
        "0.11.1",
        "0.16.0",
    )


@pytest.mark.parametrize(
    ("gfx", "kind"),
    [
        ("gfx908", GPUType.AMD_CDNA),
        ("gfx90a", GPUType.AMD_CDNA),
        ("gfx942", GPUType.AMD_CDNA),
        ("gfx950", GPUType.AMD_CDNA),
        ("gfx906", GPUType.AMD_GCN),
        ("gfx900", GPUType.AMD_GCN),
        ("gfx90c", GPUType.AMD_GCN),
        ("gfx803", GPUType.AMD_GCN),
        ("gfx1010", GPUType.AMD_RDNA),
        ("gfx1151", GPUType.AMD_RDNA),
        ("gfx1201", GPUType.AMD_RDNA),
        ("gfx1299", GPUType.UNKNOWN),
        ("gfx943", GPUType.UNKNOWN),
        ("sm_90", GPUType.UNKNOWN),
        (None, GPUType.UNKNOWN),
    ],
)
def test_the_table_decides_the_kind(gfx: str | None, kind: GPUType) -> None:
    assert gpu_type_of(gfx) is kind


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["gfx1151"], ["gfx1151"]),
        (["GFX1151"], ["gfx1151"]),
        (["gfx90a:sramecc+:xnack-"], ["gfx90a"]),
        (["Strix Halo"], ["gfx1151"]),
        (["strix-halo"], ["gfx1151"]),
        (["AMD Radeon RX 7900 XTX"], ["gfx1100"]),
        (["7900xtx"], ["gfx1100"]),
        (["MI300X"], ["gfx942"]),
        (["Instinct MI210"], ["gfx90a"]),
        (["R9700"], ["gfx1201"]),
        (["Radeon VII"], ["gfx906"]),
        (["Radeon 840M"], ["gfx1152", "gfx1153"]),
        (["rdna3"], ["gfx1100", "gfx1101", "gfx1102", "gfx1103"]),
        (["RDNA 3.5"], ["gfx1150", "gfx1151", "gfx1152", "gfx1153", "gfx1154"]),
        (["rdna35"], ["gfx1150", "gfx1151", "gfx1152", "gfx1153", "gfx1154"]),
        (["cdna3"], ["gfx942"]),
        (["gfx1201,gfx1100", "gfx1201"], ["gfx1201", "gfx1100"]),
        (["gfx1201;gfx1100", ""], ["gfx1201", "gfx1100"]),
        ([], []),
    ],
)
def test_names_people_type(typed: list[str], meant: list[str]) -> None:
    assert list(resolve(typed)) == meant


def test_gcn5_is_vega_and_not_the_mi100() -> None:
    assert "gfx906" in resolve(["gcn5"])
    assert "gfx908" not in resolve(["gcn5"])


def test_all_is_what_some_provider_has_blas_for() -> None:
    assert set(resolve(["all"])) == {gfx for gfx in CATALOGUE if providers_with_blas(gfx)}


@pytest.mark.parametrize(
    ("typed", "near"),
    [("gfx1152x", "gfx1152"), ("gfx1105", "gfx1100"), ("RX 7900 XTXX", "RX 7900 XTX"), ("strix", "Strix")],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(typed: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve([typed])
    assert typed in caught.value.what
    assert near in caught.value.cause
    assert caught.value.fix
    assert caught.value.exit_code == 2


@settings(max_examples=60)
@given(st.text(max_size=20))
def test_resolve_gives_known_gfx_or_a_usage_error(name: str) -> None:
    try:
        found = resolve([name])
    except UsageError:
        return
    assert all(gfx in CATALOGUE for gfx in found)


def test_every_known_name_resolves() -> None:
    for name in known_names():
        assert resolve([name]), name


def test_rows_hold_together() -> None:
    assert len(CATALOGUE) >= 35
    for gfx, target in CATALOGUE.items():
        assert gfx == target.gfx
        assert target.blas <= set(PROVIDERS)
        assert target.architecture.replace(" ", "").lower() == target.family
        # An override runs another target's kernels: those must be there.
        if target.stand_in:
            assert lookup(target.stand_in) is not None
            assert providers_with_blas(target.stand_in), gfx
        if target.vllm_works_since:
            assert target.vllm_built_since
        # A target that nobody has BLAS for says why, or runs by override.
        assert target.blas or target.rocm_override or target.notes, gfx


def test_apus_are_known_to_be_apus() -> None:
    apus = {gfx for gfx, target in CATALOGUE.items() if target.integrated}
    assert {"gfx1151", "gfx1150", "gfx1103", "gfx1036", "gfx90c", "gfx902", "gfx1033"} <= apus
    assert not apus & {"gfx1100", "gfx1030", "gfx906", "gfx90a", "gfx1201"}


def test_the_markdown_table_has_a_row_for_each_target() -> None:
    lines = markdown_table().splitlines()
    assert len(lines) == len(CATALOGUE) + 2
    assert len({line.count(" | ") for line in lines if not line.startswith("|---")}) == 1
    assert any("gfx1151" in line and "Strix Halo" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "gfx"),
    [
        ("AMD Ryzen AI Max+ PRO 395 w/ Radeon 8060S", "gfx1151"),
        ("Ryzen AI Max PRO 390", "gfx1151"),
        ("Ryzen AI Max PRO 380", "gfx1151"),
        ("Ryzen AI 9 HX PRO 370", "gfx1150"),
        ("HX 370", "gfx1150"),
        ("Ryzen AI 9 HX 375", "gfx1150"),
        ("Radeon PRO W7900", "gfx1100"),
    ],
)
def test_names_as_the_machine_or_its_box_spells_them(name: str, gfx: str) -> None:
    assert resolve([name]) == (gfx,)
