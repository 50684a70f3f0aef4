"""Memory that training steps share."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest

PAGES = """
import resource, torch
from ubq.stages.heap import kept_heap

def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(1 << 20) for _ in range(40)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_heap():
    steps = [step() for _ in range(6)]
print(min(steps), step())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_a_step_maps_no_page_of_the_step_before_anew() -> None:
    whole = 40 * (4 << 20) // resource.getpagesize()
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    inside, after = (int(n) for n in done.stdout.split())
    assert inside < whole / 20, "the fewest of six steps"
    assert after > whole / 2, "the memory went back at the end"
