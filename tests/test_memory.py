"""A training keeps its memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from diamond_gym.device import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
for _ in range(3):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's choice")
def test_pages_are_not_asked_for_again():
    faults = {}
    for choice in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, choice], capture_output=True, text=True, check=True)
        faults[choice] = int(done.stdout)
    assert faults["keep"] < faults["leave"] / 10
