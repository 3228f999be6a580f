"""A Docker Engine to build with: found, started or installed.

`ensure` gives one, `stop` stops what `ensure` started, `find` only looks. Where an engine runs already,
nothing is installed, started or changed.
"""

from amdserve.image.engine.models import Engine, EnginePaths
from amdserve.image.engine.obtain import Found, ensure, find, stop

__all__ = ["Engine", "EnginePaths", "Found", "ensure", "find", "stop"]
