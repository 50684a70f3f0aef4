"""The noise that a pair is drawn from: the same for every command, runtime and file format.

Pair i of seed s has a stream of its own, PCG64 keyed by ``SeedSequence((s, i))``: it depends neither on how many pairs
are asked for nor on the batch, and needs no torch. A bundle carries this file beside its ``generate.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pair_noise(
    seed: int, pairs: Sequence[int], steps: int, latent_length: int, stochastic: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Start noise (B, 1, L) and step noise (steps-1, B, 1, L) of the pairs of these numbers.

    Args:
        seed: not negative.
        pairs: their numbers.
        steps: sampling steps.
        latent_length: L.
        stochastic: whether the solver uses the step noise; else it is zero.
    """
    noise = np.zeros((steps, len(pairs), 1, latent_length), np.float32)
    draws = steps if stochastic else 1
    for row, number in enumerate(pairs):
        stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number))))
        noise[:draws, row, 0] = stream.standard_normal((draws, latent_length), np.float32)
    return noise[0], noise[1:]
