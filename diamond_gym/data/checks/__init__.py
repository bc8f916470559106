"""Checks of recordings before a world model is trained on them."""

from diamond_gym.data.checks.copies import copied_episodes
from diamond_gym.data.checks.coverage import Coverage, coverage
from diamond_gym.data.checks.faults import check_store, chosen, damaged_files
from diamond_gym.data.checks.findings import Finding
from diamond_gym.data.checks.motion import estimate_lag

__all__ = [
    "Coverage",
    "Finding",
    "check_store",
    "chosen",
    "copied_episodes",
    "coverage",
    "damaged_files",
    "estimate_lag",
]
