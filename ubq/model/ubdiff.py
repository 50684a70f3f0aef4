"""UB-Diff (AAAI-25, arXiv 2501.00941): pairs of velocity map and shot gathers from one latent.

Shapes: B batch, L latent length, S sources, T time samples, R receivers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ubq.model.diffusion import Objective, Variant
from ubq.model.encoder import VelocityEncoder
from ubq.model.layers import Projector
from ubq.model.parts import PARTS
from ubq.model.seismic import CLS_TOKEN, PATCH_TOKEN, SeismicDecoder
from ubq.model.unet import UNet
from ubq.model.velocity import VelocityDecoder


@dataclass(frozen=True)
class ModelSizes:
    """Everything that decides the model's tensors; keys and defaults of the table ``[model]``."""

    variant: Variant = "paper"
    encoder_dim: int = 512
    unet_dim: int = 0
    """Base channels of the U-Net; 0 becomes encoder_dim."""
    dim_mults: tuple[int, ...] = (1, 2, 4, 8)
    norm_groups: int = 8
    attention_heads: int = 4
    attention_dim_head: int = 32
    diffusion_steps: int = 256
    objective: Objective = "v"
    encoder_dims: tuple[int, ...] = (32, 64, 128, 256)
    velocity_latent: int = 128
    velocity_dims: tuple[int, ...] = (32, 64, 128, 256, 512)
    seismic_latent: int = 640
    seismic_depth: int = 2
    seismic_heads: int = 8
    seismic_mlp_ratio: int = 5
    sources: int = 5
    seismic_samples: int = 1000
    receivers: int = 70

    def __post_init__(self) -> None:
        if self.unet_dim == 0:
            object.__setattr__(self, "unet_dim", self.encoder_dim)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, lists for tuples: what JSON and TOML hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSizes:
        """From ``to_dict``, or from the table ``[model]``.

        Raises:
            TypeError: an unknown key.
        """
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)


def _encoder(sizes: ModelSizes) -> VelocityEncoder:
    return VelocityEncoder(sizes.encoder_dims, sizes.encoder_dim)


def _velocity_projector(sizes: ModelSizes) -> Projector:
    return Projector(sizes.encoder_dim, sizes.velocity_latent)


def _velocity_decoder(sizes: ModelSizes) -> VelocityDecoder:
    return VelocityDecoder(sizes.velocity_latent, sizes.velocity_dims)


def _seismic_projector(sizes: ModelSizes) -> Projector:
    return Projector(sizes.encoder_dim, sizes.seismic_latent)


def _seismic_decoder(sizes: ModelSizes) -> SeismicDecoder:
    return SeismicDecoder(
        sizes.seismic_latent,
        sizes.seismic_depth,
        sizes.seismic_heads,
        sizes.seismic_mlp_ratio,
        sizes.sources,
        sizes.seismic_samples,
        sizes.receivers,
        read_token=PATCH_TOKEN if sizes.variant == "paper" else CLS_TOKEN,
    )


def _unet(sizes: ModelSizes) -> UNet:
    return UNet(
        sizes.unet_dim,
        sizes.dim_mults,
        time_conditioned=sizes.variant == "paper",
        groups=sizes.norm_groups,
        heads=sizes.attention_heads,
        dim_head=sizes.attention_dim_head,
    )


_BUILDERS: dict[str, Callable[[ModelSizes], nn.Module]] = {
    "encoder": _encoder,
    "velocity_projector": _velocity_projector,
    "velocity_decoder": _velocity_decoder,
    "seismic_projector": _seismic_projector,
    "seismic_decoder": _seismic_decoder,
    "unet": _unet,
}
assert tuple(_BUILDERS) == PARTS


def build_part(sizes: ModelSizes, part: str) -> nn.Module:
    """One of ``PARTS`` alone, with fresh weights, so that a stage holds only what it trains.

    Raises:
        KeyError: no such part.
    """
    return _BUILDERS[part](sizes)


class UBDiff(nn.Module):
    """Encoder, U-Net, and the two decoders with their projectors. Only the encoder stays home."""

    def __init__(self, sizes: ModelSizes) -> None:
        super().__init__()
        self.encoder = _encoder(sizes)
        self.velocity_projector = _velocity_projector(sizes)
        self.velocity_decoder = _velocity_decoder(sizes)
        self.seismic_projector = _seismic_projector(sizes)
        self.seismic_decoder = _seismic_decoder(sizes)
        self.unet = _unet(sizes)

    @torch.jit.export
    def encode(self, velocity: Tensor) -> Tensor:
        """Normalised velocity (B, 1, 70, 70) -> latent (B, L)."""
        return self.encoder(velocity).flatten(1)

    @torch.jit.export
    def decode_velocity(self, latent: Tensor) -> Tensor:
        """Latent (B, L) -> normalised velocity (B, 1, 70, 70)."""
        return self.velocity_decoder(self.velocity_projector(latent))

    @torch.jit.export
    def decode_seismic(self, latent: Tensor) -> Tensor:
        """Latent (B, L) -> log-normalised gather (B, S, T, R)."""
        return self.seismic_decoder(self.seismic_projector(latent))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Latent (B, L) -> normalised velocity and log-normalised gather."""
        return self.decode_velocity(latent), self.decode_seismic(latent)
