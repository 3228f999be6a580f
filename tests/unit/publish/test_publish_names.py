"""Names of published images, what a second target costs, what was made from what."""

from __future__ import annotations

from pathlib import Path

import pytest

from amdserve.errors import PublishError, UsageError
from amdserve.image.models import Cell, Request
from amdserve.image.plan import every_gfx
from amdserve.image.project import Project
from amdserve.image.publish import compare, layers, release, tags, tools
from amdserve.image.publish.reference import Reference, names_registry, parse
from amdserve.image.publish.sign import Signer

ROOT = Path(__file__).resolve().parents[3]
PROJECT = Project(ROOT)
HERE = "ghcr.io/somebody/amdserve"
DIGEST = "sha256:" + "a" * 64


def cells(**request: object) -> tuple[Cell, ...]:
    return PROJECT.plan(Request(repository=HERE, **request)).cells  # type: ignore[arg-type]


def names(cell: Cell) -> list[str]:
    return [alias.removeprefix(f"{HERE}:") for alias in cell.aliases]


def test_names_that_move() -> None:
    (vulkan,) = cells(images=("vulkan",))
    assert names(vulkan) == ["vulkan", "latest"]
    (one,) = cells(images=("llama",), gfx=("gfx1151",))
    assert names(one) == ["llama-gfx1151"]
    (family,) = cells(images=("llama",), gfx=("rdna4",))
    assert names(family) == ["llama-gfx1200-gfx1201", "llama-rdna4"]
    (part,) = cells(images=("llama",), gfx=("gfx1200", "gfx1151"))
    assert names(part) == ["llama-gfx1151-gfx1200"], "half of a family is not the family"


def test_every_name_of_the_matrix_leads_to_one_image() -> None:
    matrix = PROJECT.plan(PROJECT.matrix(Request(images=("vulkan,llama",), repository=HERE))).cells
    found = [alias for cell in matrix for alias in (*cell.aliases, cell.immutable)]
    assert len(found) == len(set(found))
    assert len(matrix) == 1 + len(every_gfx("debian"))


def test_name_fits_only_what_it_was_planned_for() -> None:
    (one,) = cells(images=("llama",), gfx=("rdna4",))
    (other,) = cells(images=("llama",), gfx=("gfx1151",))
    for alias in (*one.aliases, one.immutable):
        tag = alias.rpartition(":")[2]
        assert tags.fits(tag, one.labels)
        assert not tags.fits(tag, other.labels)
        assert not tags.fits(tag, {})
        assert not tags.fits(tag, {**one.labels, "io.amdserve.gfx": "gfx1200", "io.amdserve.cell": "x"})
    changed = {**one.labels, "io.amdserve.hash": DIGEST}
    assert not tags.fits(one.immutable.rpartition(":")[2], changed)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ghcr.io/a/b:c", Reference("ghcr.io", "a/b", "c")),
        ("127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a")),
        (f"localhost/a:b@{DIGEST}", Reference("localhost", "a", "b", DIGEST)),
    ],
)
def test_references(text: str, found: Reference) -> None:
    assert parse(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    "text", ["amdserve:vulkan", "ghcr.io/A:b", "ghcr.io/a:", "ghcr.io/a@sha256:1", "ghcr.io/"]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_registry_is_named_by_dockers_rule() -> None:
    assert names_registry("localhost/a")
    assert names_registry("a:5000/b")
    assert not names_registry("somebody/amdserve:1.0")
    assert not names_registry("amdserve:5000")


def test_second_target_costs_its_own_code_and_kernels() -> None:
    (cell,) = cells(images=("llama",), gfx=("gfx1151",))
    found = layers.of_cell(cell, PROJECT)
    own = [one.step for one in found if not one.shared]
    shared = [one.step for one in found if one.shared]
    assert any("--from=rocm-kernels" in step for step in own)
    assert any("--from=llama-rocm" in step for step in own)
    assert any("--from=llama-vulkan" in step for step in shared)
    assert any("--from=python" in step for step in shared)
    # Nothing that all share comes after the first that is a target's own.
    assert [one.shared for one in found] == sorted((one.shared for one in found), reverse=True)


def test_layers_told_apart_by_where_they_come_from() -> None:
    text = "FROM base AS a\nRUN make {gfx}\nFROM base AS b\nRUN make\nFROM base\nCOPY --link --from=b /b /b\n"
    text += "COPY --link --from=a /a /a\nRUN one \\\n  && two\nCOPY <<'EOF' /file\nFROM nowhere\nEOF\n"
    found = layers.of_texts(text.format(gfx="gfx1"), text.format(gfx="gfx2"))
    assert [(one.step[:12], one.shared) for one in found] == [
        ("COPY --link ", True),
        ("COPY --link ", False),
        ("RUN one && t", True),
        ("COPY <<'EOF'", True),
    ]


def test_comparison_says_what_differs() -> None:
    (cell,) = cells(images=("llama",), gfx=("gfx1151",))
    same = compare.compare("x", cell.labels, PROJECT)
    assert same.to_dict()["same"] is True
    older = {
        **cell.labels,
        "io.amdserve.hash": DIGEST,
        "io.amdserve.rocm.version": "7.1.0",
        "io.amdserve.inputs": cell.labels["io.amdserve.inputs"].replace('"LICENSE":"', '"LICENSE":"0'),
    }
    found = compare.compare("x", older, PROJECT)
    assert found.inputs == ("LICENSE changed",)
    assert dict(found.versions) == {"rocm.version": ("7.1.0", "7.2.4")}
    assert "7.1.0 -> 7.2.4" in str(found)


def test_dry_release_names_every_step_and_asks_nobody() -> None:
    plan = PROJECT.plan(Request(images=("vulkan",), repository=HERE))
    lines = release.dry(plan, Signer(key="cosign.key"))
    assert [line.split(": ")[1] for line in lines[:-1]] == [
        *("build", "build", "push", "sign", "test", "alias", "alias"),
    ]
    assert plan.cells[0].immutable in "\n".join(lines)
    assert release.dry(plan, Signer(), through="push")[-1].startswith("vulkan: push")


def test_somebody_must_sign(tmp_path: Path) -> None:
    for signer in (Signer(), Signer(key=str(tmp_path / "nothing.key"))):
        with pytest.raises(UsageError):
            signer.check()
    Signer(identity="^https://github.com/").check()
    Signer(key="awskms:///alias/amdserve").check()


def test_without_cosign_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes hours: what signs it must be known to be there before."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(tools, "prefix", lambda: tmp_path / "tools")
    with pytest.raises(PublishError, match="cosign is not installed"):
        Signer(identity="^https://github.com/").complete(tmp_path)
