"""Files by which other tools run an image: compose, Kubernetes, quadlet."""

from amdserve.image.deploy.render import render
from amdserve.image.deploy.wish import FORMATS, Wish, wish

__all__ = ["FORMATS", "Wish", "render", "wish"]
