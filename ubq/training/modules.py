"""The parts of a UBDiff that train together."""

from __future__ import annotations

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Encoder, velocity projector and velocity decoder."""

    def __init__(self, encoder: nn.Module, velocity_projector: nn.Module, velocity_decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.velocity_projector, self.velocity_decoder = encoder, velocity_projector, velocity_decoder

    def forward(self, velocity: Tensor) -> Tensor:
        """Normalised velocity (B, 1, 70, 70) -> the same, reconstructed."""
        return self.velocity_decoder(self.velocity_projector(self.encoder(velocity)))


class SeismicBranch(nn.Module):
    """Seismic projector and seismic decoder."""

    def __init__(self, seismic_projector: nn.Module, seismic_decoder: nn.Module) -> None:
        super().__init__()
        self.seismic_projector, self.seismic_decoder = seismic_projector, seismic_decoder

    def forward(self, latent: Tensor) -> Tensor:
        """Latent (B, L) -> log-normalised seismic (B, 5, 1000, 70)."""
        return self.seismic_decoder(self.seismic_projector(latent))
