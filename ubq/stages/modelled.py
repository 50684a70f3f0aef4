"""Real and modelled pairs, as both stages that train the seismic decoder learn from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config
from ubq.errors import StageError
from ubq.i18n import gettext as _
from ubq.stages.floatmodel import imported
from ubq.stages.maps import NormalisedMaps, open_latents, open_split, seismic_shape
from ubq.stages.paths import RunPaths
from ubq.training.files import load_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ubq.data.normalization import Normalization
    from ubq.data.pairs import Pairs
    from ubq.training.latents import Latents

MODELLED_LATENTS = "latents.pt"
"""Beside the modelled pairs: ``latents`` (N, L) in their order; ``samples`` (N, 2), file and row of the training map
that each is the encoder's latent of, -1 where the sampler drew it; ``of`` and ``maps``, digests of what they were drawn
with and of the maps."""
PAIRS_PER_FILE = 250


@dataclass(frozen=True)
class TrainingPairs:
    """What the seismic decoder learns from.

    Attributes:
        train: real pairs and, after them, the modelled ones.
        val: held-out pairs, all real.
        latents: of both.
        modelled: how many of the training pairs, at their end, are modelled.
    """

    train: NormalisedMaps
    val: NormalisedMaps
    latents: Latents
    modelled: int


def wanted_pairs(config: Config) -> int:
    """Pairs that the configuration has modelled; none where the seismic decoder is imported."""
    return 0 if imported(config) else config.train.seismic.modelled_pairs


def modelled_files(config: Config, paths: RunPaths) -> list[tuple[Path, Path]]:
    """Files of maps and gathers, in the order of the pairs."""
    count = -(-wanted_pairs(config) // PAIRS_PER_FILE)
    return [(paths.modelled / f"model{n}.npy", paths.modelled / f"data{n}.npy") for n in range(1, count + 1)]


def digest_of_maps(config: Config, paths: RunPaths) -> Tensor:
    """SHA-256 over the modelled maps, (32,) uint8."""
    import torch

    from ubq.data.content import content_of

    contents = "\n".join(content_of(maps) for maps, _gathers in modelled_files(config, paths))
    return torch.frombuffer(bytearray(hashlib.sha256(contents.encode()).digest()), dtype=torch.uint8)


def open_training_pairs(
    config: Config, paths: RunPaths, normalization: Normalization, device: torch.device
) -> TrainingPairs:
    """Real and modelled pairs of a run.

    Raises:
        StageError: latents are of other samples.
        DataError: a file of data is gone or another.
    """
    import torch

    from ubq.training.latents import Latents

    split = open_split(config, paths, seismic=True)
    train, val = NormalisedMaps(split.train, normalization, device), NormalisedMaps(split.val, normalization, device)
    latents, modelled = open_latents(paths, device, (train, val)), wanted_pairs(config)
    if modelled:
        pairs, drawn = _open_modelled(config, paths)
        train = NormalisedMaps(split.train.joined(pairs), normalization, device)
        latents = Latents(torch.cat([latents.train, drawn.to(device)]), latents.val)
    return TrainingPairs(train, val, latents, modelled)


def _open_modelled(config: Config, paths: RunPaths) -> tuple[Pairs, Tensor]:
    """The modelled pairs, and the latents (N, L) that they belong to."""
    import torch

    from ubq.data.pairs import pairs_of_files

    file = paths.modelled / MODELLED_LATENTS
    stored = load_tensors(file)
    pairs = pairs_of_files(modelled_files(config, paths), seismic_shape(config))
    whole = len(stored["latents"]) == len(pairs) == wanted_pairs(config)
    if not whole or not torch.equal(stored["maps"], digest_of_maps(config, paths)):
        raise StageError(
            _("{path} is not of the maps that lie beside it").format(path=file),
            _("remove its folder and resume: its stage runs again"),
        )
    return pairs, stored["latents"].clone()
