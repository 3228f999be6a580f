"""What is wrong with this host or container, and the exact fix.

`examine` judges facts and is pure; `gather` collects the facts of this machine; `main` is the command.
"""

from amdserve.doctor.cli import gather, main
from amdserve.doctor.examine import examine
from amdserve.doctor.facts import EngineFacts, Facts, Seen, Who
from amdserve.doctor.report import Check, Report

__all__ = ["Check", "EngineFacts", "Facts", "Report", "Seen", "Who", "examine", "gather", "main"]
