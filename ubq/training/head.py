"""Least-squares start of the seismic decoder's head.

The head alone has hundreds of weights for each of 350,000 outputs. From a random start its noise has
to be unlearned before anything else shows; the best head for the features as they are has a closed form.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ubq import distributed
from ubq.model.layers import Projector
from ubq.model.seismic import SeismicDecoder
from ubq.training.latents import Maps
from ubq.training.modules import SeismicBranch

MOST_SAMPLES = 2048
"""Real gathers that a fit reads: their number hardly matters beyond."""
RIDGE = 1e-2
"""Share of a feature's mean square that is added to the diagonal: the start need not be perfect."""


@torch.no_grad()
def fit_head(branch: SeismicBranch, latents: Tensor, maps: Maps, batch_size: int, modelled: int = 0) -> None:
    """Set the head to the ridge regression of the gathers on its input features, in place.

    The projector's batch statistics are set to those of the latents, which the features depend on.

    Args:
        branch: with fresh weights; left in evaluation mode.
        latents: (N, L), in the order of ``maps``.
        maps: training samples.
        batch_size: samples read at a time.
        modelled: how many of the samples, at their end, are modelled pairs, all of which are read.
    """
    projector = cast(Projector, branch.seismic_projector)
    decoder = cast(SeismicDecoder, branch.seismic_decoder)
    real, every = len(latents) - modelled, torch.arange(len(latents))
    chosen = torch.cat([every[: min(real, MOST_SAMPLES)], every[real:]])
    _set_statistics(projector, latents[chosen])
    branch.eval()
    head = decoder.output
    width = head.in_features + 1  # and the bias
    gram = torch.zeros(width, width, dtype=torch.float64, device=latents.device)
    moment = torch.zeros(width, head.out_features, device=latents.device)
    group = distributed.group()
    parts = chosen.split(batch_size)
    if group is not None:  # each rank reads its share of the gathers
        parts = parts[group.info.rank :: group.info.size]
    for part in parts:
        features = decoder.features(projector(latents[part]))
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        gram += features.T.double() @ features.double()
        moment += features.T @ maps.seismic(part).flatten(1)
    if group is not None:
        group.sum_all_([gram])
        group.sum_all_([moment])
    gram.diagonal()[:-1] += RIDGE * gram.diagonal()[:-1].mean()
    solution = torch.linalg.inv(gram).float() @ moment
    head.weight.copy_(solution[:-1].T)
    head.bias.copy_(solution[-1])


def _set_statistics(projector: Projector, latents: Tensor) -> None:
    norm: nn.BatchNorm1d = projector.norm
    before, norm.momentum = norm.momentum, 1.0
    projector.train()
    projector(latents)
    norm.momentum = before
