"""The command `amdserve`: where its interpreter begins.

Somebody waits for a server to start. So a copy of this process imports what planning needs, which takes
longest, while this one reads the command line and gives its rights up.
"""

from __future__ import annotations

import gc
import sys

# With one of these a plan is only shown, or nothing is planned.
SHOWN = frozenset({"--dry-run", "--explain", "--help", "-h"})


def main() -> int:
    """Run the command; give the exit code."""
    words = sys.argv[1:]
    if words[:1] == ["serve"] and SHOWN.isdisjoint(words):
        # What is imported stays, and nothing else is made until a server has been started.
        gc.disable()
        from amdserve.serve import planner  # noqa: PLC0415  (no other command plans)

        planner.begin()
    from amdserve.serve import cli  # noqa: PLC0415  (it takes as long as all before it)

    return cli.main(words)


if __name__ == "__main__":
    sys.exit(main())
