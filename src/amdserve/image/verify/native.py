"""The checks of an image's libraries: all there, loadable, with code for the right GPUs and any CPU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from amdserve.image.verify.seen import FOLDERS, PLUGINS, Seen, Verdict

CPU, BASELINE = "libggml-cpu-", "libggml-cpu-x64.so"


def libraries(seen: Seen) -> Verdict:
    """All libraries and programs find what they are linked with, in their own folder or the system."""
    found = seen.fact("libraries")
    wrong = [
        f"{folder} holds no program or library"
        for backend, folder in FOLDERS.items()
        if backend in seen.expected.backends and not any(name.startswith(folder + "/") for name in found)
    ]
    for name, one in found.items():
        if "error" in one:
            wrong.append(f"{name}: {one['error']}")
        elif one["missing"]:
            wrong.append(f"{name} needs {', '.join(one['missing'])}")
        elif one["foreign"]:
            wrong.append(f"{name} takes {', '.join(one['foreign'])} from another backend's folder")
    return wrong, f"{len(found)} programs and libraries, nothing missing"


def plugins(seen: Seen) -> Verdict:
    """The libraries that a server loads at run time can be loaded: of one that cannot it says nothing."""
    found = seen.fact("plugins")
    wrong, count = [], 0
    for backend, folder in FOLDERS.items():
        if backend not in seen.expected.backends:
            continue
        loads = found.get(folder) or {}
        count += len(loads)
        if backend in PLUGINS and PLUGINS[backend] not in loads:
            wrong.append(f"{folder}/{PLUGINS[backend]} is missing")
        wrong += [f"{folder}/{name} does not load: {why}" for name, why in loads.items() if why]
    return wrong, f"{count} libraries load"


def portable_cpu(seen: Seen) -> Verdict:
    """The CPU's code comes in variants, the plainest among them: no build for the builder's own CPU."""
    found = seen.fact("plugins")
    wrong, names = [], set[str]()
    for backend, folder in FOLDERS.items():
        if backend not in seen.expected.backends:
            continue
        variants = {name for name in found.get(folder) or {} if name.startswith(CPU)}
        names |= variants
        if "libggml-cpu.so" in (found.get(folder) or {}):
            wrong.append(f"{folder}/libggml-cpu.so was built for one CPU")
        if BASELINE not in variants:
            wrong.append(f"{folder}/{BASELINE}, for every x86-64 CPU, is missing")
        if len(variants) < 3:
            wrong.append(f"{folder} has {len(variants)} variants of the CPU's code")
    return wrong, f"{len(names)} variants"


def code_objects(seen: Seen) -> Verdict:
    """The ROCm library holds code for exactly the GPUs asked for, in every one of its files; so does rocBLAS.

    Not every file of rocBLAS has code for every GPU, and AMD's own package is taken as it is.
    """
    wanted = set(seen.expected.gfx) if seen.expected.rocm else set()
    found = seen.fact("offload")
    if not wanted:
        return [f"{name} holds GPU code that nobody asked for" for name in found], "none, as asked"
    wrong, details = [], []
    library = f"{FOLDERS['llama-server-rocm']}/{PLUGINS['llama-server-rocm']}"
    if library not in found:
        wrong.append(f"{library} is missing")
    for name, one in found.items():
        if "error" in one:
            wrong.append(f"{name}: {one['error']}")
            continue
        count, targets = one["bundles"], one["targets"]
        if lacking := sorted(wanted - set(targets)):
            wrong.append(f"{name} has no code for {', '.join(lacking)}")
        ours = name.startswith("/opt/llama/")
        if (surplus := sorted(set(targets) - wanted)) and (ours or name.startswith("/usr/lib/")):
            wrong.append(f"{name} has code for {', '.join(surplus)}, which was not asked for")
        wrong += [
            f"{name} has code for {gfx} in {number} of {count} parts"
            for gfx, number in targets.items()
            if number < count and ours
        ]
        wrong += [f"{name}: the part {ident} is no code object" for ident in one["empty"]]
        details.append(f"{Path(name).name}: {', '.join(sorted(targets))} in {count} parts")
    return wrong, "; ".join(details)


def rocm_runtime(seen: Seen) -> Verdict:
    """The compiler that HIP loads by name, which no linker shows, is there."""
    if not seen.expected.rocm:
        return [], "no ROCm"
    loads = seen.fact("runtime")["loads"]
    if not loads or not all(loads.values()):
        return [], ", ".join(name for name, why in loads.items() if not why) or "nothing is loaded by name"
    return [f"{name} does not load: {why}" for name, why in loads.items()], ""


def blas(seen: Seen, name: str) -> Verdict:
    """The kernel files of rocBLAS or hipBLASLt are there for each GPU asked for, and for no other."""
    one = seen.fact("kernels").get(name) or {}
    if not seen.expected.rocm:
        return [f"{folder} is there, and no ROCm" for folder in one.get("folders") or ()], "no ROCm"
    if not one.get("libraries"):
        if name == "rocblas":
            return ["nothing is linked with librocblas"], ""
        return [], "not shipped"
    files = one.get("files") or {}
    wrong = [
        f"no kernel file for {gfx} in {_listed(one.get('folders'))}"
        for gfx in seen.expected.gfx
        if not files.get(gfx)
    ]
    wrong += [
        f"{count} kernel files for {gfx}, which was not asked for"
        for gfx, count in sorted(files.items())
        if gfx not in seen.expected.gfx
    ]
    counts = ", ".join(f"{files.get(gfx)} files for {gfx}" for gfx in seen.expected.gfx)
    return wrong, f"{counts}, {one.get('bytes', 0) / 1e6:.0f} MB"


def rocblas_kernels(seen: Seen) -> Verdict:
    """Kernel files of rocBLAS."""
    return blas(seen, "rocblas")


def hipblaslt_kernels(seen: Seen) -> Verdict:
    """Kernel files of hipBLASLt, where a backend is linked with it."""
    return blas(seen, "hipblaslt")


def _listed(names: Iterable[str] | None) -> str:
    return ", ".join(names or ()) or "any folder"
