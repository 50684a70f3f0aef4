"""Relative errors between a result and its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LATE_SAMPLE = 601
"""First time sample after 0.6 s, at 1 ms: late arrivals are weak, and coarse output steps drown them first."""


def relative_l2(result: Tensor, reference: Tensor) -> float:
    """``||result - reference|| / ||reference||`` over all elements, in float64; infinite against an all-zero reference.

    Raises:
        ValueError: shapes differ.
    """
    if result.shape != reference.shape:
        raise ValueError(f"shapes differ: {tuple(result.shape)} and {tuple(reference.shape)}")
    # linalg.vector_norm accumulates in the dtype asked for without a float64 copy of a whole batch of gathers
    error = torch.linalg.vector_norm(result - reference, dtype=torch.float64).item()
    size = torch.linalg.vector_norm(reference, dtype=torch.float64).item()
    if error == 0.0:
        return 0.0
    return error / size if size > 0 else float("inf")


@dataclass(frozen=True)
class SeismicError:
    """Relative L2 of shot gathers; ``late`` figures are over t > 0.6 s alone."""

    log_normalised: float
    physical: float
    late_log_normalised: float
    late_physical: float


def seismic_error(result: Tensor, reference: Tensor, normalise: Callable[[Tensor], Tensor]) -> SeismicError:
    """Errors of gathers (N, 5, 1000, 70) in physical amplitude.

    Args:
        result: gathers to judge.
        reference: what they should be.
        normalise: physical amplitude to log-normalised, ``ubq.data.Normalization.seismic``.
    """
    a, b = normalise(result), normalise(reference)
    late = (..., slice(LATE_SAMPLE, None), slice(None))
    return SeismicError(
        log_normalised=relative_l2(a, b),
        physical=relative_l2(result, reference),
        late_log_normalised=relative_l2(a[late], b[late]),
        late_physical=relative_l2(result[late], reference[late]),
    )
