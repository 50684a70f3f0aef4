"""What a stage's process does before it computes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny import tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from ubq.config.schema import AutoencoderTraining, Config
from ubq.model import GaussianDiffusion
from ubq.stages.device import set_threads
from ubq.training.tasks import reconstruction_loss


class Calls(TorchDispatchMode):
    """Operators that run, with the elements and type of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, torch.dtype]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.seen.append((func.overloadpacket.__name__, result.numel(), result.dtype))
        return result


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


MKL = frozenset(
    ("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "erfinv", "exp", "expm1", "lgamma", "log", "log10", "log1p",
     "log2", "sin", "sinh", "sqrt", "tan", "tanh")
)  # fmt: skip
"""Functions that PyTorch may leave to MKL's vector mathematics on x86 (aten/src/ATen/cpu/vml.h)."""


def functions_of_a_step() -> set[tuple[str, torch.dtype]]:
    """Functions of :data:`MKL` that a step of the whole model calls, forwards and backwards."""
    model, diffusion = tiny_model("paper").train(), GaussianDiffusion(16)
    x, time = torch.rand(4, 1, 16), torch.arange(4)
    velocity = torch.rand(4, 1, 70, 70)
    with Calls() as calls:
        decoded = model.decode_velocity(model.encode(velocity))
        loss = (
            reconstruction_loss(decoded, velocity, AutoencoderTraining()) + model.decode_seismic(x[:, 0]).abs().mean()
        )
        (loss + diffusion.loss(model.unet, x, time, torch.randn_like(x))).backward()
    return {(name.rstrip("_"), dtype) for name, _size, dtype in calls.seen if name.rstrip("_") in MKL}


@pytest.mark.usefixtures("threads")
def test_functions_of_mkl_are_first_called_by_one_thread() -> None:
    with Calls() as calls:
        set_threads(Config(threads=2))
    assert torch.get_num_threads() == 2
    alone = {(name, dtype) for name, size, dtype in calls.seen if size == 1}  # one element is never shared out
    used = functions_of_a_step()
    assert used
    assert used <= alone
