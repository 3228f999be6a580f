"""The checks of what an image's programs answer: version, devices, help and the flags in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from amdserve.image.verify.seen import Seen, Verdict

_DEVICE = re.compile(r"^ {2}(\w+: .+)$", re.MULTILINE)
NO_ROCM = "no ROCm-capable device"


def version(seen: Seen) -> Verdict:
    """Each server answers `--version`, and is of the commit that the image names."""
    commit = str((seen.fact("image").get("llama") or {}).get("commit"))
    wrong, details = [], []
    for name, answer in _answers(seen, "version"):
        text = answer["out"] + answer["err"]
        line = next((line for line in text.splitlines() if "version" in line), "")
        if answer["exit"]:
            wrong.append(f"{name} --version {_ended(answer)}")
        elif commit not in line:
            wrong.append(f"{name} --version says {line!r}, the image names the commit {commit}")
        details.append(f"{name} {line.removeprefix('version:').strip()}")
    return wrong, ", ".join(details)


def devices(seen: Seen) -> Verdict:
    """Each server answers `--list-devices` where there is no GPU: no device, no crash."""
    wrong, details = [], []
    for name, answer in _answers(seen, "devices"):
        text = answer["out"] + answer["err"]
        listed = _DEVICE.findall(answer["out"])
        if answer["exit"]:
            wrong.append(f"{name} --list-devices {_ended(answer)}")
        elif listed:
            wrong.append(f"{name} lists {', '.join(listed)} in a container that was given no device")
        elif "rocm" in name and NO_ROCM not in text:
            wrong.append(f"{name} does not say {NO_ROCM!r}: did it load its library? It says {_last(text)!r}")
        details.append(f"{name}: none")
    return wrong, ", ".join(details) + " (no GPU was given)"


def help_recorded(seen: Seen) -> Verdict:
    """The recorded help is what the program prints now."""
    wrong, details = [], []
    for name, program in _programs(seen):
        recorded, now = program["recorded"], program["help"]
        if isinstance(recorded, dict):
            wrong.append(f"the help of {name} is not recorded: {recorded['error']}")
        elif now["exit"]:
            wrong.append(f"{name} --help {_ended(now)}")
        elif recorded != now["out"]:
            wrong.append(
                f"the recorded help of {name} is not what it prints: {_difference(recorded, now['out'])}"
            )
        else:
            details.append(f"{name}: {len(help_flags(now['out']))} flags")
    return wrong, ", ".join(details)


def flags(seen: Seen) -> Verdict:
    """Every flag that the entrypoint can put on a backend's command line is in that backend's help."""
    emitted = seen.fact("flags")
    wrong, details = [], []
    for name, program in _programs(seen):
        known = help_flags(program["help"]["out"])
        wanted = emitted.get(name) or []
        if not wanted:
            wrong.append(f"the entrypoint names no flag of {name}")
        if unknown := sorted(set(wanted) - known):
            wrong.append(f"{name} does not know {', '.join(unknown)}")
        details.append(f"{name}: all {len(wanted)}")
    return wrong, ", ".join(details)


def command(seen: Seen) -> Verdict:
    """The entrypoint's program answers."""
    answer = seen.fact("command")
    return [f"amdserve version {_ended(answer)}"] if answer["exit"] else [], answer["out"].strip()


def help_flags(text: str) -> frozenset[str]:
    """Give the flags that a help text defines; one that a description only mentions is none of them."""
    found: set[str] = set()
    for line in text.splitlines():
        # llama.cpp begins an option in the first column, Python's argparse after two blanks.
        if re.match(r" {0,2}-", line):
            head = re.split(r"\s{2,}(?![\s-])", line.strip(), maxsplit=1)[0]
            found.update(re.findall(r"(?<!\S)--?[A-Za-z][\w-]*", head))
    return frozenset(found)


def _programs(seen: Seen) -> Iterable[tuple[str, Mapping[str, Any]]]:
    found = seen.fact("programs")
    for name in seen.expected.backends:
        if name not in found:
            raise LookupError(f"/etc/amdserve/image.json does not say how {name} is started")
        yield name, found[name]


def _answers(seen: Seen, what: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return [(name, program[what]) for name, program in _programs(seen) if what in program]


def _ended(answer: Mapping[str, Any]) -> str:
    code = answer["exit"]
    how = f"died of signal {-code}" if code < 0 else f"exits with {code}"
    return f"{how}: {_last(answer['err'] or answer['out'])}"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "it says nothing"


def _difference(before: str, now: str) -> str:
    old, new = before.splitlines(), now.splitlines()
    pairs = zip(old, new, strict=False)
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            return f"line {number} was {one.strip()!r} and is {other.strip()!r}"
    return f"{len(old)} lines were recorded, {len(new)} are printed"
