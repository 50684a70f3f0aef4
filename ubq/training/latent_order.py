"""The order of the latent: an autoencoder's channels, sorted so that neighbours go together.

The channels of an encoder's last layer come in no order, and each may change its sign: the decoder
undoes either. The diffusion U-Net, though, runs 1-D convolutions along them and learns faster where
neighbours are correlated (seriation; here a greedy chain through the correlation matrix).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ubq.training.modules import Autoencoder

REACH = 3
"""How many of the channels before it a channel is matched to, the nearest counting twice as much as the next."""


def chain(latents: Tensor) -> tuple[Tensor, Tensor]:
    """An order of the channels with correlated neighbours, and the signs that make the correlations positive.

    Args:
        latents: (N, L).

    Returns:
        order (L,) int64, and signs (L,) of the channels in that order.
    """
    correlation = torch.nan_to_num(torch.corrcoef(latents.T))  # a channel that never changes goes with none
    first = int(correlation.abs().sum(1).argmax())
    order, signs = [first], [1.0]
    free = torch.ones(len(correlation), dtype=torch.bool)
    free[first] = False
    while free.any():
        match = torch.zeros(len(correlation))
        for distance, (channel, sign) in enumerate(
            zip(order[: -REACH - 1 : -1], signs[: -REACH - 1 : -1], strict=True)
        ):
            match += sign * correlation[channel] / 2**distance
        channel = int(match.abs().masked_fill(~free, -1.0).argmax())
        order.append(channel)
        signs.append(-1.0 if match[channel] < 0 else 1.0)
        free[channel] = False
    return torch.tensor(order), torch.tensor(signs)


@torch.no_grad()
def order_latent(model: Autoencoder, latents: Tensor) -> Tensor:
    """Sort the channels of the encoder and the inputs of the projector; what the model computes stays the same.

    Args:
        model: changed in place, on any device.
        latents: of the training maps, (N, L), on any device.

    Returns:
        The same latents in the new order, (N, L), where they were.
    """
    on_cpu = chain(latents.float().cpu())
    last: Any = model.get_submodule("encoder.blocks")[-1]  # type: ignore[index]
    order, signs = (part.to(last.conv.weight.device) for part in on_cpu)
    for parameter in (last.conv.weight, last.conv.bias, last.norm.running_mean, last.norm.running_var):
        parameter.copy_(parameter[order])
    for parameter in (last.norm.weight, last.norm.bias):  # tanh is odd: the sign goes through it
        parameter.copy_(signs * parameter[order])
    weight = model.get_parameter("velocity_projector.linear.weight")
    weight.copy_(signs * weight[:, order])
    order, signs = (part.to(latents.device) for part in on_cpu)
    return signs * latents[:, order]
