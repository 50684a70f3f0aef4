"""Structural similarity of velocity maps (Wang et al. 2004), by torchmetrics.

For velocity maps only: most of a gather is near zero, and an all-zero gather already scores 0.83 against real data.
"""

from __future__ import annotations

from torch import Tensor


def ssim(result: Tensor, reference: Tensor, low: float = -1.0, high: float = 1.0) -> float:
    """Mean SSIM of velocity maps (N, 1, 70, 70) after scaling ``low..high`` to [0, 1].

    Args:
        result: maps to judge.
        reference: maps they should equal, same shape.
        low: value that becomes 0: -1 for normalised maps, the family's least velocity for m/s.
        high: value that becomes 1.

    Raises:
        ValueError: shapes differ, or these are not single-channel maps.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if result.shape != reference.shape:
        raise ValueError(f"shapes differ: {tuple(result.shape)} and {tuple(reference.shape)}")
    if result.ndim != 4 or result.shape[1] != 1:
        raise ValueError(f"velocity maps are (N, 1, H, W), not {tuple(result.shape)}")
    scale = high - low
    score = structural_similarity_index_measure((result - low) / scale, (reference - low) / scale, data_range=1.0)
    assert isinstance(score, Tensor)  # a tuple only when the full image is asked for
    return float(score)
