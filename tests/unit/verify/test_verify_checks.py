"""A good image passes every check; each way to be broken fails exactly the check that is named for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from verify_image import BACKENDS, HELP, ICD, NOTHING, attributes, facts, good, ran

from amdserve.image.verify import CHECKS, judge
from amdserve.image.verify.answers import help_flags
from amdserve.image.verify.seen import Check, Expected, Report, Seen, read_facts

Break = Callable[["Image"], object]
HIP = "/opt/llama/rocm/libggml-hip.so"
BLAS = "/usr/lib/x86_64-linux-gnu/librocblas.so.5"


def failing(seen: Seen) -> dict[str, str]:
    return {check.name: check.detail for check in judge(seen) if not check.ok}


def test_a_good_image_passes() -> None:
    assert failing(good()) == {}
    assert all(check.detail for check in judge(good()))


@dataclass(frozen=True)
class Image:
    """What a test may change."""

    attributes: dict[str, Any]
    facts: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = self.attributes["Config"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.config["Labels"]
        return found


ONE_DEVICE = "Available devices:\n  Vulkan0: llvmpipe (1 MiB)\n"
BROKEN: list[tuple[str, str, Break]] = [
    ("platform", "linux/arm64", lambda i: i.attributes.update(Architecture="arm64")),
    ("size", "2601 MB of at most 2600 MB", lambda i: i.attributes.update(Size=2_601_000_000)),
    ("size", "0 MB", lambda i: i.attributes.update(Size=0)),
    ("image-json", "gfx", lambda i: i.facts["image"].update(gfx=["gfx1100"])),
    ("image-json", "backends", lambda i: i.facts["image"]["backends"].pop("llama-cpp-python")),
    ("labels", "licenses is missing", lambda i: i.labels.pop("org.opencontainers.image.licenses")),
    ("labels", "sha256:abc", lambda i: i.labels.update({"io.amdserve.hash": "sha256:x"})),
    ("labels", "inputs", lambda i: i.labels.update({"io.amdserve.inputs": "{}"})),
    ("labels", "no JSON", lambda i: i.labels.update({"io.amdserve.inputs": "{"})),
    ("healthcheck", "None", lambda i: i.config.pop("Healthcheck")),
    ("healthcheck", "curl", lambda i: i.config["Healthcheck"].update(Test=["CMD", "curl"])),
    ("port", "nothing", lambda i: i.config.update(ExposedPorts=None)),
    ("port", "8081", lambda i: i.config["ExposedPorts"].update({"8081/tcp": {}})),
    ("entrypoint", "llama-server", lambda i: i.config.update(Entrypoint=["llama-server"])),
    ("entrypoint", "None", lambda i: i.config.update(Cmd=None)),
    ("entrypoint", "10001", lambda i: i.config.update(User="10001")),
    ("entrypoint", "/models", lambda i: i.config.update(Volumes={"/models": {}})),
    ("command", "exits with 1: boom", lambda i: i.facts.update(command=ran(err="Traceback\nboom", code=1))),
    ("user", "called nobody", lambda i: i.facts["users"].update(name="nobody")),
    ("user", "uid not found", lambda i: i.facts.update(users={"error": "KeyError: uid not found"})),
    ("folders", "mode 0755, not 1777", lambda i: i.facts["places"]["/var/lib/amdserve"].update(mode=0o755)),
    ("folders", "/models has mode 0700", lambda i: i.facts["places"]["/models"].update(mode=0o700)),
    (
        "folders",
        "/models: No such",
        lambda i: i.facts["places"].update({"/models": {"error": "No such file"}}),
    ),
    ("symlinks", "llama-server is missing", lambda i: i.facts["links"].pop("/usr/local/bin/llama-server")),
    (
        "symlinks",
        "no program",
        lambda i: i.facts["links"]["/usr/local/bin/llama-server-rocm"].update(runs=False),
    ),
    (
        "symlinks",
        "not to /opt/llama/vulkan/llama-bench",
        lambda i: i.facts["links"]["/usr/local/bin/llama-bench"].update(real="/opt/llama/rocm/llama-bench"),
    ),
    (
        "libraries",
        "needs libhipblas.so.3",
        lambda i: i.facts["libraries"].update({HIP: broken("libhipblas.so.3")}),
    ),
    ("libraries", "another backend's folder", lambda i: i.facts["libraries"].update({HIP: foreign()})),
    (
        "libraries",
        "/opt/llama/cpu holds no",
        lambda i: i.facts["libraries"].pop("/opt/llama/cpu/libllama.so"),
    ),
    (
        "plugins",
        "libggml-hip.so is missing",
        lambda i: i.facts["plugins"]["/opt/llama/rocm"].pop("libggml-hip.so"),
    ),
    (
        "plugins",
        "undefined symbol",
        lambda i: i.facts["plugins"]["/opt/llama/cpu"].update(bad("libggml-cpu-x64.so")),
    ),
    ("portable-cpu", "x64.so", lambda i: i.facts["plugins"]["/opt/llama/cpu"].pop("libggml-cpu-x64.so")),
    (
        "portable-cpu",
        "for one CPU",
        lambda i: i.facts["plugins"]["/opt/llama/rocm"].update({"libggml-cpu.so": ""}),
    ),
    ("vulkan-icd", "No such file", lambda i: i.facts["icds"].update({ICD: {"error": "No such file"}})),
    ("vulkan-icd", "does not load", lambda i: i.facts["icds"][ICD].update(load="libLLVM.so: cannot open")),
    ("vulkan-icd", "VK_DRIVER_FILES is not set", lambda i: i.config["Env"].pop(2)),
    ("vulkan-icd", "differ", lambda i: i.config["Env"].append("VK_DRIVER_FILES=/other.json")),
    (
        "vulkan-icd",
        "image.json names",
        lambda i: i.facts["image"]["vulkan"].update(icd="/radeon_icd.x86_64.json"),
    ),
    ("rocm-environment", "HIP_PATH is '/opt/rocm'", lambda i: i.config["Env"].append("HIP_PATH=/opt/rocm")),
    (
        "rocm-runtime",
        "comgr",
        lambda i: i.facts["runtime"].update(loads={"libamd_comgr.so.3": "cannot open"}),
    ),
    ("code-objects", "no code for gfx1151", lambda i: targets(i, {"gfx1100": 140})),
    ("code-objects", "not asked for", lambda i: targets(i, {"gfx1151": 140, "gfx1100": 140})),
    ("code-objects", "in 139 of 140 parts", lambda i: targets(i, {"gfx1151": 139})),
    ("code-objects", "no code for gfx1151", lambda i: targets(i, {})),
    ("code-objects", "is no code object", lambda i: i.facts["offload"][HIP].update(empty=["hip--gfx1151"])),
    (
        "code-objects",
        "cut off",
        lambda i: i.facts["offload"].update({HIP: {"error": "its section is cut off"}}),
    ),
    (
        "code-objects",
        "librocblas.so.5 has code for gfx900, which",
        lambda i: i.facts["offload"].update({BLAS: parts(65, gfx1151=65, gfx900=65)}),
    ),
    (
        "code-objects",
        "librocblas.so.5 has no code for gfx1151",
        lambda i: i.facts["offload"].update({BLAS: parts(65)}),
    ),
    ("code-objects", "libggml-hip.so is missing", lambda i: i.facts["offload"].pop(HIP)),
    (
        "rocblas-kernels",
        "no kernel file for gfx1151",
        lambda i: i.facts["kernels"]["rocblas"].update(files={}),
    ),
    ("rocblas-kernels", "gfx906", lambda i: i.facts["kernels"]["rocblas"]["files"].update(gfx906=90)),
    ("rocblas-kernels", "librocblas", lambda i: i.facts["kernels"]["rocblas"].update(libraries=[])),
    (
        "hipblaslt-kernels",
        "no kernel file",
        lambda i: i.facts["kernels"]["hipblaslt"].update(libraries=["lt"]),
    ),
    ("version", "signal 11", lambda i: answers(i, "rocm", version=ran(code=-11))),
    ("version", "commit 0c1e57098", lambda i: answers(i, "vulkan", version=ran(err="version: 1 (fff)"))),
    ("devices", "exits with 127", lambda i: answers(i, "vulkan", devices=ran(code=127))),
    ("devices", "given no device", lambda i: answers(i, "vulkan", devices=ran(ONE_DEVICE))),
    ("devices", "no ROCm-capable device", lambda i: answers(i, "rocm", devices=ran(NOTHING))),
    ("help", "line 4 was", lambda i: answers(i, "rocm", recorded=HELP.replace("--ctx-size", "--context"))),
    ("help", "not recorded", lambda i: answers(i, "vulkan", recorded={"error": "No such file"})),
    ("flags", "does not know --mlock", lambda i: i.facts["flags"]["llama-server-rocm"].append("--mlock")),
    ("flags", "names no flag", lambda i: i.facts["flags"].update({"llama-cpp-python": []})),
    ("reference", "missing", lambda i: i.facts.update(reference={"answers": 0, "why": "it is missing"})),
    ("build-tools", "/usr/bin/gcc-16", lambda i: i.facts["tools"].append("/usr/bin/gcc-16")),
    ("caches", ".deb", lambda i: i.facts["caches"].append("/var/cache/apt/archives/x.deb")),
]


def broken(name: str) -> dict[str, list[str]]:
    return {"missing": [name], "foreign": []}


def foreign() -> dict[str, list[str]]:
    return {"missing": [], "foreign": ["/opt/llama/vulkan/libggml-base.so"]}


def bad(name: str) -> dict[str, str]:
    return {name: "undefined symbol: ggml_new"}


def parts(bundles: int, **targets: int) -> dict[str, Any]:
    return {"bundles": bundles, "targets": targets, "empty": []}


def targets(image: Image, gfx: dict[str, int]) -> None:
    image.facts["offload"][HIP]["targets"] = gfx


def test_rocblas_need_not_have_code_in_every_file_and_amds_is_taken_as_it_is() -> None:
    seen = good()
    facts = copy.deepcopy(dict(seen.facts))
    amds = "/opt/rocm/core-7.14/lib/librocblas.so.5"
    facts["offload"].update({BLAS: parts(65, gfx1151=60), amds: parts(65, gfx1151=65, gfx900=65)})
    assert failing(replace(seen, facts=facts)) == {}


def answers(image: Image, kind: str, **changed: Any) -> None:
    image.facts["programs"][f"llama-server-{kind}"].update(changed)


@pytest.mark.parametrize(("name", "word", "how"), BROKEN, ids=[f"{one[0]}: {one[1]}" for one in BROKEN])
def test_one_thing_broken_fails_one_check(name: str, word: str, how: Break) -> None:
    seen = good()
    image = Image(copy.deepcopy(dict(seen.attributes)), copy.deepcopy(dict(seen.facts)))
    how(image)
    found = failing(replace(seen, attributes=image.attributes, facts=image.facts))
    assert set(found) == {name}
    assert word in found[name]


def test_every_check_has_a_way_to_fail() -> None:
    assert {name for name, _ in CHECKS} == {name for name, _, _ in BROKEN}


def test_the_labels_that_were_planned_must_be_there() -> None:
    expected = Expected("llama", ("gfx1151",), BACKENDS, {"io.amdserve.rocm.version": "7.2.4"})
    found = failing(replace(good(), expected=expected))
    assert "rocm.version" in found["labels"]


def test_more_gfx_than_asked_for_is_as_wrong_as_fewer() -> None:
    found = failing(replace(good(), expected=Expected("llama", ("gfx1151", "gfx1201"), BACKENDS)))
    assert {"code-objects", "rocblas-kernels", "image-json"} <= set(found)


def test_an_image_without_rocm_holds_none() -> None:
    seen = good()
    vulkan = Expected("vulkan", (), ("llama-server-vulkan", "llama-cpp-python"))
    found = failing(replace(seen, expected=vulkan))
    assert {"code-objects", "rocblas-kernels", "rocm-environment", "image-json"} <= set(found)


def test_without_a_probe_the_outside_is_still_judged() -> None:
    found = failing(replace(good(), facts={}))
    assert "nobody could look inside" in found["libraries"]
    names = {check.name for check in judge(replace(good(), facts={})) if check.ok}
    assert {"size", "healthcheck", "port", "entrypoint", "platform"} <= names


@pytest.mark.parametrize("name", sorted(facts()))
def test_what_could_not_be_looked_at_is_no_pass(name: str) -> None:
    inside = facts()
    inside[name] = {"error": "PermissionError: no"}
    found = failing(replace(good(), facts=inside))
    assert found
    assert all("PermissionError" in detail for detail in found.values())


def test_facts_of_an_unknown_form_are_no_pass() -> None:
    for name in facts():
        values: tuple[Any, ...] = (None, [], "text", 7)
        for value in values:
            inside = {**facts(), name: value}
            if (name, value) in (("tools", []), ("caches", [])):
                continue
            assert failing(replace(good(), facts=inside)), (name, value)


def test_a_description_is_no_definition_of_a_flag() -> None:
    known = help_flags(HELP)
    assert {"-c", "--ctx-size", "-fa", "-nocb", "--no-cont-batching", "--list-devices", "--usage"} <= known
    assert not {"--mlock", "--n-keep"} & known


def test_a_report_holds_only_if_all_of_it_does() -> None:
    good_one, bad_one = Check("a", True, "fine"), Check("b", False, "broken")
    assert Report("x:1", (good_one,)).ok
    assert not Report("x:1", (good_one, bad_one)).ok
    assert not Report("x:1", ()).ok
    assert Report("x:1", (bad_one,)).to_dict() == {
        "ref": "x:1",
        "checks": [{"name": "b", "ok": False, "detail": "broken"}],
    }


def test_what_the_labels_say_is_what_is_expected() -> None:
    expected = Expected.from_labels(attributes()["Config"]["Labels"])
    assert expected == Expected("llama", ("gfx1151",), BACKENDS)
    assert expected.rocm
    assert Expected.from_labels({}) == Expected("", (), ())


def test_facts_are_an_object() -> None:
    assert read_facts('{"tools": []}') == {"tools": []}
    for text in ("", "[]", "Traceback"):
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            read_facts(text)
