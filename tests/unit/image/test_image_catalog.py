"""The catalogue and the pins: what holds, and what is refused with file, line and key."""

from pathlib import Path

import pytest
from image_tree import ROOT, checkout, edit
from pydantic import ValidationError

from amdserve.errors import ConfigError
from amdserve.image.catalog import load_catalog, load_sources

CATALOG = """\
schema: 1
default: llama
images:
  llama:
    summary: Everything.
    backends: [llama-server-vulkan, llama-server-rocm]
    gfx: targets
    budget_mb: 100
    budget_per_extra_gfx_mb: 10
"""


def catalog(root: Path, text: str) -> Path:
    (root / "images").mkdir(exist_ok=True)
    (root / "images" / "catalog.yaml").write_text(text)
    return root


def refused(root: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_catalog(catalog(root, text))
    return caught.value


def test_what_is_shipped_holds() -> None:
    images, sources = load_catalog(ROOT), load_sources(ROOT)
    assert images.images["llama"].backends[0] == "llama-server-vulkan"
    assert not images.images["vulkan"].targeted
    assert sources.rocm.providers[sources.rocm.default].base in sources.base
    assert sources.base["debian"].reference.startswith("debian:")


def test_models_cannot_be_changed(tmp_path: Path) -> None:
    image = load_catalog(catalog(tmp_path, CATALOG)).images["llama"]
    with pytest.raises(ValidationError):
        image.budget_mb = 5


def test_budget_grows_with_each_further_target(tmp_path: Path) -> None:
    image = load_catalog(catalog(tmp_path, CATALOG)).images["llama"]
    assert [image.budget(targets) for targets in (0, 1, 3)] == [100, 100, 120]


def test_unknown_key_names_line_and_nearest(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("budget_mb", "budgt_mb"))
    assert "images/catalog.yaml, line 8: images.llama.budgt_mb: this key is not known" in error.what
    assert "did you mean `budget_mb`" in error.what
    # The key that is missing for that reason is told too.
    assert "images.llama.budget_mb: this key is missing" in error.cause
    assert error.exit_code == 2


def test_wrong_value_names_its_own_line(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("budget_mb: 100", "budget_mb: a lot"))
    assert "images/catalog.yaml, line 8: images.llama.budget_mb:" in error.what
    assert "'a lot'" in error.what


def test_wrong_item_of_a_list_is_named_by_its_number(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("llama-server-rocm]", "ollama]"))
    assert "line 6: images.llama.backends.1:" in error.what


def test_missing_key_names_the_line_of_what_lacks_it(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("    gfx: targets\n", ""))
    assert "line 4: images.llama.gfx: this key is missing" in error.what


def test_broken_yaml_names_line_and_column(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("[llama-server-vulkan, llama-server-rocm]", "[llama"))
    assert "images/catalog.yaml, line 7: this is no YAML" in error.what
    assert "column" in error.cause


@pytest.mark.parametrize(
    ("content", "line", "word"),
    [
        (b"schema: 1\ndefault: \xff\xfe\n", 2, "utf-8"),
        (b"schema: 1\n\ndefault: a\x00b\n", 3, "control characters"),
        (b"schema: 1\ndefault: 2026-99-99\n", 2, "month must be in 1..12"),
        (b"schema: 1\nimages: &all\n  llama: *all\n", 2, "alias"),
    ],
    ids=["no UTF-8", "a control character", "no date", "a loop"],
)
def test_what_no_parser_takes_is_refused_in_words(
    tmp_path: Path, content: bytes, line: int, word: str
) -> None:
    (catalog(tmp_path, "") / "images/catalog.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_catalog(tmp_path)
    assert caught.value.what == f"images/catalog.yaml, line {line}: this is no YAML"
    assert word in caught.value.cause
    assert caught.value.fix == f"$EDITOR +{line} images/catalog.yaml"


def test_key_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG + "    gfx: none\n")
    assert "images/catalog.yaml, line 10: the key `gfx` stands there a second time" in error.what


@pytest.mark.parametrize("text", ["", "# only a remark\n"])
def test_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    assert "it is empty" in refused(tmp_path, text).what


def test_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert "images/catalog.yaml, line 1: the whole file" in refused(tmp_path, "- a\n- b\n").what


def test_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_catalog(tmp_path)
    assert "images/catalog.yaml cannot be read" in caught.value.what
    assert "checkout" in caught.value.fix


def test_default_must_be_an_image(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("default: llama", "default: lama"))
    assert "line 2: default: 'lama' is not one of llama (did you mean `llama`?)" in error.what


def test_rocm_without_targets_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace("gfx: targets", "gfx: none"))
    assert "line 7: images.llama.gfx: llama-server-rocm is built for gfx targets" in error.what


def test_targets_without_rocm_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, CATALOG.replace(", llama-server-rocm", ""))
    assert "line 7: images.llama.gfx: no backend of it" in error.what


def test_default_provider_must_exist(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    edit(root / "images/sources.yaml", "default: debian", "default: debain")
    with pytest.raises(ConfigError, match=r"rocm.default: 'debain' is not one of debian, amd"):
        load_sources(root)


def test_provider_must_name_a_base(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    edit(root / "images/sources.yaml", "base: ubuntu", "base: fedora")
    with pytest.raises(ConfigError, match=r"rocm.providers.amd.base: 'fedora' is not one of"):
        load_sources(root)


def test_version_without_quotes_is_explained(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    edit(root / "images/sources.yaml", 'version: "7.14"', "version: 7.14")
    with pytest.raises(ConfigError, match=r"7.14 is a number here: put it in quotes"):
        load_sources(root)


def test_hash_that_is_too_short_is_refused(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    edit(root / "images/sources.yaml", "832db0699007", "832db")
    with pytest.raises(ConfigError, match=r"line \d+: llama.sha256:"):
        load_sources(root)
