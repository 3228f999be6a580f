"""What the kernel tells about a backend's processes: who they are, what they read, whether they compute."""

from __future__ import annotations

import os
from pathlib import Path

from amdserve.values import dataclass

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """What some processes have done so far: bytes read from and written to files, memory held, seconds
    computed; whether stopped.
    """

    read: int = 0
    written: int = 0
    rss: int = 0
    cpu: float = 0.0
    stopped: bool = False


def family(pid: int) -> tuple[int, ...]:
    """Give a process and all that descend from it."""
    found, todo = [], [pid]
    while todo:
        current = todo.pop()
        found.append(current)
        todo += [int(word) for word in _text(f"/proc/{current}/task/{current}/children").split()]
    return tuple(found)


def sample(pid: int) -> Sample:
    """Measure a process and all that descend from it; what cannot be read counts as nothing."""
    read = written = rss = 0
    cpu = 0.0
    stopped = False
    for one in family(pid):
        for line in _text(f"/proc/{one}/io").splitlines():
            # `rchar` too: what comes from the page cache is progress as well.
            if line.startswith(("read_bytes:", "rchar:")):
                read += int(line.split()[1])
            # Not `wchar`, which counts what is written to the log as well.
            if line.startswith("write_bytes:"):
                written += int(line.split()[1])
        pages = _text(f"/proc/{one}/statm").split()
        rss += int(pages[1]) * PAGE if len(pages) > 1 else 0
        fields = _text(f"/proc/{one}/stat").rpartition(")")[2].split()
        if len(fields) > 12:
            cpu += (int(fields[11]) + int(fields[12])) / TICKS
            stopped = stopped or fields[0] in ("T", "t")
    return Sample(read, written, rss, cpu, stopped)


def listens(pid: int, port: int) -> bool | None:
    """Tell whether a process, or a descendant of it, listens on a TCP port; None: it cannot be told."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in _text(table).splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                inodes.add(f"socket:[{words[9]}]")
    if not inodes:
        return None
    for one in family(pid):
        try:
            for name in os.listdir(f"/proc/{one}/fd"):  # noqa: PTH208
                if os.readlink(f"/proc/{one}/fd/{name}") in inodes:  # noqa: PTH115
                    return True
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return False


def oom_kills() -> int | None:
    """Count the processes that the kernel has killed for memory in this container; None: unknown.

    The kernel counts them for the container also where the whole machine was short. Only where that number
    cannot be seen, all those on the machine are counted.
    """
    for file in (*_memory_events(), "/proc/vmstat"):
        for line in _text(file).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _memory_events() -> list[str]:
    for line in _text("/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = "/sys/fs/cgroup" + path.rstrip("/")
            return [f"{base}/memory.events", "/sys/fs/cgroup/memory.events"]
        if "memory" in controllers.split(","):
            base = "/sys/fs/cgroup/memory" + path.rstrip("/")
            return [f"{base}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
    return []


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
