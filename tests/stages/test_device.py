"""What a stage's process does before it computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ubq.config.schema import Config
from ubq.stages.device import VECTOR_MATH, set_threads


class Calls(TorchDispatchMode):
    """Operators that run, with the elements and type of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.seen.append((func.overloadpacket.__name__, result.numel(), result.dtype))
        return result


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_functions_of_mkl_are_first_called_by_one_thread() -> None:
    with Calls() as calls:
        set_threads(Config(threads=2))
    assert torch.get_num_threads() == 2
    for name in VECTOR_MATH:
        for dtype in (torch.float32, torch.float64):
            assert (name, 1, dtype) in calls.seen  # one element is never shared out
