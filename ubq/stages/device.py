"""Device and thread count of a training stage."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.cpu import cores
from ubq.errors import PreflightError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    import torch


VECTOR_MATH = ("tanh", "sqrt", "exp", "log", "sin", "cos")
"""Those of PyTorch's functions in use here that may be MKL's on x86."""


def set_threads(config: Config) -> None:
    """Use the run's thread count in this process, and let nothing hang on which thread comes first."""
    import torch

    torch.set_num_threads(config.threads or cores())
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
    usable = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }[device.type]
    if not usable:
        raise PreflightError(
            _("device {name} is not available on this machine").format(name=name), _("--device auto or --device cpu")
        )
    return device


def use_device(config: Config) -> torch.device:
    """The training device, with threads set; every step on it repeats to the bit for one thread count.

    Raises:
        PreflightError: the device is not there.
    """
    import torch

    set_threads(config)
    device = find_device(config.device)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device
