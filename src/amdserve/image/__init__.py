"""On the host: catalogue → plan → render → build → verify → run."""
