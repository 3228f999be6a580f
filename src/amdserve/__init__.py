"""amdserve: images that serve LLMs on AMD GPUs, and the toolkit that builds and proves them."""

__version__ = "0.1.0"
