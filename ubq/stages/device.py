"""Device, memory and thread count of a training stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.cpu import cores, memory_available
from ubq.distributed import rank_info, threads_here
from ubq.errors import PreflightError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    import torch


VECTOR_MATH = ("tanh", "sqrt", "exp", "log", "sin", "cos")
"""Those of PyTorch's functions in use here that may be MKL's on x86."""


def set_threads(config: Config) -> None:
    """Use this process's share of the run's threads, and let nothing hang on which thread comes first."""
    import torch

    torch.set_num_threads(threads_here(config.threads or cores()))
    settle_vector_math()


def settle_vector_math() -> None:
    """Have MKL choose its kernels of vector functions now, in one thread.

    It does so at the first call, and where several threads make that call at once, one of them may compute its part
    with a kernel of thousands of units in the last place (PyTorch issue 188792): one training in some would not repeat.
    """
    import torch

    for name in VECTOR_MATH:
        for dtype in (torch.float32, torch.float64):
            getattr(torch, name)(torch.ones(1, dtype=dtype))


def find_device(name: str) -> torch.device:
    """The device that ``device`` names; ``auto`` is the GPU where there is one.

    Raises:
        PreflightError: the device is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    info = rank_info()
    if device.type == "cuda" and info is not None and info.local_size > 1:
        if device.index is not None:
            raise PreflightError(
                _("device {name} is one GPU, and there are {count} processes").format(name=name, count=info.local_size),
                "--device cuda",
            )
        device = torch.device("cuda", info.local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PreflightError(_("device {name} is not available on this machine").format(name=name), "--device cpu")
    return device


def try_device(name: str) -> torch.device:
    """The device that ``device`` names, after one small operator on it.

    A PyTorch without kernels for a card still lists the card: only a kernel shows it.

    Raises:
        PreflightError: the device is not there, or computes nothing.
    """
    import torch

    device = find_device(name)
    if device.type == "cuda":
        settle_cuda(device)
    try:
        float(torch.ones(8, device=device).square().sum())
    except RuntimeError as error:
        raise PreflightError(
            _("device {name} computes nothing: {why}").format(name=name, why=str(error).splitlines()[0]),
            _("install the PyTorch build for this card (https://pytorch.org/get-started/locally), or --device cpu"),
        ) from error
    return device


def settle_cuda(device: torch.device) -> None:
    """How this process computes on a GPU: in float32 where float32 is asked for, and alike each time.

    Without this a convolution rounds its float32 inputs to TF32, 10 bits of mantissa, which is coarser than
    some of the grids that fake quantisation puts them on.

    Kernels that repeat to the bit are chosen wherever PyTorch has one, which for the operators of ubq's stages is
    everywhere. An operator without one would be a warning, not an error.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read as cuBLAS starts, at the first product
    torch.cuda.set_device(device.index or 0)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a kernel for every new tensor, none of which is read before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at run time


def use_device(config: Config) -> torch.device:
    """The training device, with threads set; see :func:`settle_cuda` for what repeats on it.

    Raises:
        PreflightError: the device is not there.
    """
    set_threads(config)
    device = find_device(config.device)
    if device.type == "cuda":
        settle_cuda(device)
    return device


def device_memory(device: str) -> tuple[bool, int]:
    """Whether training runs on a GPU, and the bytes that are free for it."""
    import torch

    torch_device = find_device(device)
    if torch_device.type == "cuda":
        return True, torch.cuda.mem_get_info(torch_device)[0]
    return False, memory_available()
