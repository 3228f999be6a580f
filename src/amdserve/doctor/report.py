"""What the doctor says: checks that hold, that do not, or that do not apply; then the line that runs it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, Literal

from amdserve.values import dataclass, field

_MARKS = {True: "✔", False: "✘", None: "–"}
Place = Literal["host", "container"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Args:
        name: its short name.
        ok: it holds, it does not, or (None) it does not apply or could not be asked.
        detail: what was seen.
        fix: what to do on this machine; only where `ok` is False.
    """

    name: str
    ok: bool | None
    detail: str
    fix: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the check as one JSON object."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, and how to start a container here.

    Args:
        place: where it was asked.
        checks: in the order in which things depend on each other.
        docker_run: one line for a shell on the host.
        compose: the same as a compose file.
    """

    place: Place
    checks: tuple[Check, ...]
    docker_run: str
    compose: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no check fails."""
        return all(check.ok is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as one JSON object."""
        return {
            "ok": self.ok,
            "place": self.place,
            "checks": [check.to_dict() for check in self.checks],
            "docker_run": self.docker_run,
            "compose": dict(self.compose),
        }

    def lines(self) -> list[str]:
        """Give the report as text: a line a check, the fix below it, the run line and the service last."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = []
        for check in self.checks:
            lines.append(f"{_MARKS[check.ok]} {check.name:<{width}}  {check.detail}")
            lines += [f"  {'':<{width}}  fix: {line}" for line in check.fix.splitlines()]
        failed = sum(check.ok is False for check in self.checks)
        lines += ["", f"{failed} of {len(self.checks)} checks fail" if failed else "nothing is wrong", ""]
        lines += ["Start it on this host:", "", f"  {self.docker_run}", ""]
        lines += ["or as a compose service:", "", textwrap.indent(_yaml(self.compose).rstrip(), "  ")]
        return lines


def _yaml(value: Mapping[str, Any]) -> str:
    import yaml  # noqa: PLC0415 - only the text needs it

    return str(yaml.safe_dump(dict(value), sort_keys=False, default_flow_style=False, width=1000))


def good(name: str, detail: str) -> Check:
    """A check that holds."""
    return Check(name, True, detail)


def bad(name: str, detail: str, fix: str) -> Check:
    """A check that does not hold, with what to do."""
    return Check(name, False, detail, fix)


def void(name: str, detail: str) -> Check:
    """A check that does not apply here, or could not be asked."""
    return Check(name, None, detail)
