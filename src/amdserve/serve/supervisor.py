"""Where the supervisor's interpreter begins, its path empty: `python -I -S THIS FD [PLANNER [AHEAD]]`."""

import json
import os
import signal
import sys


def main() -> int:
    """Find the package beside this file, take the plan from the file descriptor, and supervise it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        # Until there is a plan, nothing has been started that would have to be ended.
        signal.signal(number, lambda *_: os._exit(0))
    sys.path.insert(0, __file__.rsplit("/amdserve/", 1)[0])
    from amdserve.serve.supervise import Supervisor  # noqa: PLC0415  (only now can it be found)

    with os.fdopen(int(sys.argv[1]), "rb") as pipe:
        data = pipe.read()
    if not data:
        # The planner has said why there is no plan; its exit code is ours.
        status = os.waitpid(int(sys.argv[2]), 0)[1] if len(sys.argv) > 2 else 0
        return max(1, os.waitstatus_to_exitcode(status))
    # Else its end is noticed by the loop, as that of any child.
    supervisor = Supervisor(json.loads(data), *sys.argv[3:])
    # No clean-up of the interpreter: a signal that comes now shall find the handlers still there.
    os._exit(supervisor.run())


if __name__ == "__main__":
    sys.exit(main())
