"""The checks of an image's files and environment."""

from __future__ import annotations

from amdserve.image.verify.seen import FOLDERS, PLUGINS, Seen, Verdict


def image_json(seen: Seen) -> Verdict:
    """What the image says of itself is what was asked for."""
    said, expected = seen.fact("image"), seen.expected
    wrong = []
    if said.get("image") != expected.image:
        wrong.append(f"it says it is {said.get('image')!r}, not {expected.image!r}")
    if tuple(said.get("gfx") or ()) != expected.gfx:
        wrong.append(f"it names gfx {said.get('gfx')}, asked for was {list(expected.gfx)}")
    if set(said.get("backends") or {}) != set(expected.backends):
        wrong.append(f"it names the backends {sorted(said.get('backends') or {})}")
    if bool(said.get("rocm")) != expected.rocm:
        wrong.append(f"it says of ROCm: {said.get('rocm')}")
    return wrong, f"{said.get('cell')}, llama.cpp {(said.get('llama') or {}).get('commit')}"


def symlinks(seen: Seen) -> Verdict:
    """The names that users and the entrypoint call lead to programs."""
    links = seen.fact("links")
    wanted = {"amdserve": "/opt/amdserve/bin/amdserve"}
    for backend, folder in FOLDERS.items():
        if backend in seen.expected.backends and backend in PLUGINS:
            kind = backend.removeprefix("llama-server-")
            wanted |= {f"llama-{what}-{kind}": f"{folder}/llama-{what}" for what in ("server", "bench")}
    first = next((name for name in ("llama-server-vulkan", "llama-server-rocm") if name in wanted), None)
    if first:
        wanted |= {"llama-server": wanted[first], "llama-bench": wanted[first.replace("server", "bench")]}
    wrong = []
    for name, target in wanted.items():
        link = links.get(f"/usr/local/bin/{name}")
        if link is None:
            wrong.append(f"/usr/local/bin/{name} is missing")
        elif not link["runs"]:
            wrong.append(f"/usr/local/bin/{name} leads to {link['real']}, which is no program")
        elif link["real"] != target:
            wrong.append(f"/usr/local/bin/{name} leads to {link['real']}, not to {target}")
    return wrong, f"{len(wanted)} names in /usr/local/bin lead to programs"


def folders(seen: Seen) -> Verdict:
    """The folders that a user mounts models and state on."""
    places = seen.fact("places")
    wrong = [f"{name}: {place['error']}" for name, place in places.items() if "error" in place]
    wrong += [f"{name} is no folder" for name, place in places.items() if not place.get("folder", True)]
    models, state = (places.get(name, {}) for name in ("/models", "/var/lib/amdserve"))
    if models.get("mode", 0o777) & 0o005 != 0o005:
        wrong.append(f"/models has mode {models['mode']:04o}: not everybody can read it")
    # Any user that a container is started as remembers there what failed.
    if state.get("mode", 0o1777) != 0o1777:
        wrong.append(f"/var/lib/amdserve has mode {state['mode']:04o}, not 1777")
    return wrong, "/models and /var/lib/amdserve are there"


def vulkan_icd(seen: Seen) -> Verdict:
    """The Vulkan driver that the environment names exists and loads."""
    if "llama-server-vulkan" not in seen.expected.backends:
        return [], "no Vulkan backend"
    named = {name: seen.environment.get(name, "") for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES")}
    wrong = [f"{name} is not set" for name, value in named.items() if not value]
    if len(set(named.values())) > 1:
        wrong.append(f"the two variables differ: {named}")
    said = (seen.fact("image").get("vulkan") or {}).get("icd")
    if said not in named.values():
        wrong.append(f"/etc/amdserve/image.json names {said}")
    icds = seen.fact("icds")
    for name, icd in icds.items():
        if "error" in icd:
            wrong.append(f"{name}: {icd['error']}")
        elif icd["load"]:
            wrong.append(f"{name}: its driver {icd['library']} does not load: {icd['load']}")
    return wrong, ", ".join(f"{name} → {icd.get('library')}" for name, icd in icds.items())


def rocm_environment(seen: Seen) -> Verdict:
    """ROCM_PATH and HIP_PATH name the prefix of ROCm, where it is."""
    if not seen.expected.rocm:
        left = [name for name in ("ROCM_PATH", "HIP_PATH") if name in seen.environment]
        return [f"{name} is set, and there is no ROCm" for name in left], "no ROCm"
    prefix = (seen.fact("image").get("rocm") or {}).get("prefix")
    wrong = [
        f"{name} is {seen.environment.get(name)!r}, ROCm lies in {prefix!r}"
        for name in ("ROCM_PATH", "HIP_PATH")
        if seen.environment.get(name) != prefix
    ]
    return wrong, f"ROCM_PATH=HIP_PATH={prefix}"


def user(seen: Seen) -> Verdict:
    """There is a user to become."""
    one = seen.fact("users")
    wrong = [] if one["name"] == "amdserve" else [f"uid {one['uid']} is called {one['name']}"]
    return wrong, f"{one['name']} is {one['uid']}"


def reference(seen: Seen) -> Verdict:
    """The reference is there, by which a GPU that computes wrongly is known."""
    found = seen.fact("reference")
    if not found["answers"]:
        return [f"no answers can be read from /etc/amdserve/reference: {found['why']}"], ""
    return [], f"{found['answers']} answers of the CPU, to a model of {found['bytes'] / 1e6:.1f} MB"


def build_tools(seen: Seen) -> Verdict:
    """No compiler, build system or version control is shipped; but vLLM compiles kernels when it starts."""
    if "vllm" in seen.expected.backends:
        return [], "vLLM needs its compiler"
    return [f"{path} is there" for path in seen.fact("tools")], "none"


def caches(seen: Seen) -> Verdict:
    """No package lists, archives or build folders are shipped."""
    return [f"{path} is there" for path in seen.fact("caches")], "none"
