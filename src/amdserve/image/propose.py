"""A pull request for each source that has a newer release than the pinned one: what the nightly job does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from amdserve import process
from amdserve.errors import ConfigError, SourceError
from amdserve.image import show
from amdserve.image.catalog import SOURCES
from amdserve.image.lock import Newer

# Whoever runs it: the commits are a machine's.
AUTHOR = ("-c", "user.name=amdserve nightly", "-c", "user.email=nightly@localhost")


def edited(text: str, found: Newer) -> str:
    """Give the pins with one version changed, everything else as it stands.

    Raises:
        ConfigError: the pinned version does not stand where it should.
    """
    start, lines = 0, text.splitlines(keepends=True)
    for depth, key in enumerate(found.place):
        for number in range(start, len(lines)):
            if re.match(rf"^{' ' * 2 * depth}{re.escape(key)}:(\s|$)", lines[number]):
                start = number
                break
        else:
            raise ConfigError(f"{SOURCES} has no {'.'.join(found.place)}", fix=f"git checkout -- {SOURCES}")
    if found.pinned not in lines[start]:
        raise ConfigError(
            f"{SOURCES}, line {start + 1}: {'.'.join(found.place)} is not {found.pinned}",
            fix=f"$EDITOR +{start + 1} {SOURCES}",
        )
    lines[start] = lines[start].replace(found.pinned, found.latest, 1)
    return "".join(lines)


def propose(
    root: Path, answers: Iterable[Newer], *, dry: bool = False, say: Callable[[str], None] = show.say
) -> list[str]:
    """Open a pull request for each newer source that has none yet; give the branches.

    Args:
        root: the checkout, at the branch that the requests are against.
        answers: what the indexes say.
        dry: only say it.
        say: takes the lines that tell how it goes.

    Raises:
        SourceError: git or gh could not.
    """
    made = []
    for found in answers:
        if not found.is_newer:
            continue
        branch = f"newer/{found.package}-{found.latest}"
        if _git(root, "ls-remote", "--heads", "origin", branch).out.strip():
            say(f"{branch}: proposed already")
            continue
        made.append(branch)
        title = f"{found.package} {found.latest}"
        if dry:
            say(f"+ propose {title} as {branch}")
            continue
        back = _git(root, "rev-parse", "--abbrev-ref", "HEAD").out.strip()
        _git(root, "switch", "--create", branch)
        try:
            pins = root / SOURCES
            pins.write_text(edited(pins.read_text("utf-8"), found), "utf-8")
            _git(
                root, *AUTHOR, "commit", "--quiet", "--message", f"{title}, until now {found.pinned}", SOURCES
            )
            _run(["gh", "auth", "setup-git"], root)
            _git(root, "push", "--quiet", "origin", branch)
            body = (
                f"{found.where} has {found.package} {found.latest}; {found.pinned} is pinned. "
                "A build names the hash and the commit that belong to it, where they are pinned too."
            )
            _run(["gh", "pr", "create", "--head", branch, "--title", title, "--body", body], root)
        finally:
            _git(root, "switch", "--quiet", back if back != "HEAD" else "--detach")
        say(f"{branch}: proposed")
    return made


def _git(root: Path, *words: str) -> process.Result:
    return _run(["git", *words], root)


def _run(argv: list[str], root: Path) -> process.Result:
    return process.run(argv, cwd=root, error=SourceError, timeout=300)
