"""Which table of the configuration a training stage takes its batch size, length and learning rate from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ubq.config.schema import Config, TrainingConfig


TABLES = {
    "train-autoencoder": "train.autoencoder",
    "train-seismic": "train.seismic",
    "train-diffusion": "train.diffusion",
    "distill": "distill",
    "qat-decoders": "qat.decoders",
    "qat-diffusion": "qat.diffusion",
}
"""Training stage -> configuration table of its batch size, length and learning rate."""


def training_of(config: Config, stage: str) -> TrainingConfig | None:
    """The settings a stage trains with; None for a stage that does not train."""
    if stage not in TABLES:
        return None
    if stage == "distill":
        return config.distill.training
    table: object = config
    for name in TABLES[stage].split("."):
        table = getattr(table, name)
    return table  # type: ignore[return-value]
