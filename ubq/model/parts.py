"""Names of the model's parts, and which of them belong together. Light: imports no torch."""

from __future__ import annotations

AUTOENCODER = ("encoder", "velocity_projector", "velocity_decoder")
SEISMIC = ("seismic_projector", "seismic_decoder")
UNET = ("unet",)
DECODERS = ("velocity_projector", "velocity_decoder", *SEISMIC)
PARTS = ("encoder", *DECODERS, *UNET)
"""Attributes of ``UBDiff``."""
DEPLOYED = {"diffusion": UNET, "velocity": ("velocity_projector", "velocity_decoder"), "seismic": SEISMIC}
"""What is quantised and deployed: the switches of ``[quant]`` and the parts that each of them means."""
