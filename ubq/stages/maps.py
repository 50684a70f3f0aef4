"""The run's samples as the training tasks want them: normalised, on the training device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.config.schema import Config, DataConfig
from ubq.stages.paths import RunPaths
from ubq.training.files import load_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from ubq.data.normalization import Normalization
    from ubq.data.pairs import Pairs, Split
    from ubq.data.split import SampleIds
    from ubq.training.latents import Latents

DATASET = "dataset.json"
"""What ``prepare`` says of the data: every file, and the split."""


def synthetic_folder(paths: RunPaths) -> Path:
    """Where ``prepare`` puts the pairs it synthesises."""
    return paths.data / "synthetic"


def maps_alone(paths: RunPaths) -> Path:
    """Where ``prepare`` puts the maps it synthesises without gathers."""
    return paths.data / "synthetic_maps.npy"


def data_of(config: Config, paths: RunPaths) -> DataConfig:
    """The data configuration with the synthesised folder filled in where no data were given."""
    if config.data.train_velocity:
        return config.data
    folder = str(synthetic_folder(paths))
    return config.data.model_copy(update={"train_velocity": folder, "train_seismic": folder})


def seismic_shape(config: Config) -> tuple[int, int, int]:
    """Sources, time samples and receivers of a gather."""
    return config.model.sources, config.model.seismic_samples, config.model.receivers


class NormalisedMaps:
    """Samples of one side of the split (``ubq.training.tasks.Maps``), normalised on the device.

    For a GPU the next batch of gathers is read by a thread, into pinned memory, while the present one is computed.
    """

    def __init__(self, pairs: Pairs, normalization: Normalization, device: torch.device) -> None:
        self._pairs, self._normalization, self._device = pairs, normalization, device
        self._reader = ThreadPoolExecutor(1, "gathers") if device.type == "cuda" else None
        self._ahead: tuple[list[int], Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def ids(self) -> np.ndarray:
        """File and row of each sample, (N, 2) int64."""
        return self._pairs.members

    def velocity(self, samples: Tensor) -> Tensor:
        """(B, 1, 70, 70) in [-1, 1]."""
        velocity = self._pairs.velocity_batch(samples.tolist())
        return self._normalization.velocity(velocity.to(self._device, non_blocking=True))

    def seismic(self, samples: Tensor) -> Tensor:
        """(B, 5, 1000, 70), log-normalised to [-1, 1]."""
        indices, ahead, self._ahead = samples.tolist(), self._ahead, None
        if ahead is not None and ahead[0] == indices:
            batch = ahead[1].result()
        elif self._reader is not None:
            batch = self._pinned_gathers(indices)
        else:
            batch = self._pairs.seismic_batch(indices)
        return self._normalization.seismic(batch.to(self._device, non_blocking=True))

    def _pinned_gathers(self, samples: list[int]) -> Tensor:
        """Gathers as they are on disk, in memory that the GPU copies from by itself where the system grants any."""
        batch = self._pairs.seismic_batch(samples)
        try:
            return batch.pin_memory()
        except RuntimeError:  # locked memory is limited; the copy then takes the host's time
            return batch

    def prefetch_seismic(self, samples: Tensor) -> None:
        """Begin to read the gathers that will be asked for next."""
        if self._reader is not None:
            indices = samples.tolist()
            self._ahead = indices, self._reader.submit(self._pinned_gathers, indices)


def open_split(config: Config, paths: RunPaths, *, seismic: bool) -> Split:
    """The split that ``prepare`` decided; with ``seismic`` its pairs alone, without it every map.

    Without ``seismic`` no seismic file is opened. Runs of ubq 0.1.0 have not written their split down: theirs follows
    from the configuration.

    Raises:
        DataError: a file is gone or is no longer what ``prepare`` read, or a side has no pair.
    """
    from ubq.data.pairs import open_pairs
    from ubq.data.split import split_from_dict

    shape = seismic_shape(config)
    written = _written_split(paths)
    if written:
        split = split_from_dict(written, paths.root, seismic, shape)
    else:
        split = open_pairs(data_of(config, paths), config.seed, seismic, shape)
    return split.pairs() if seismic else split


def sample_ids(paths: RunPaths) -> SampleIds | None:
    """Which samples the run's split has; no file of data is opened. None: the run has not written it down."""
    from ubq.data.split import SampleIds

    written = _written_split(paths)
    return SampleIds.from_dict(written) if written else None


def _written_split(paths: RunPaths) -> dict[str, Any] | None:
    file = paths.data / DATASET
    return load_json(file).get("split") if file.is_file() else None


def open_maps(
    config: Config, paths: RunPaths, normalization: Normalization, device: torch.device, *, seismic: bool
) -> tuple[NormalisedMaps, NormalisedMaps]:
    """Training and held-out samples; with ``seismic`` the pairs alone, without it no seismic file is opened."""
    split = open_split(config, paths, seismic=seismic)
    return NormalisedMaps(split.train, normalization, device), NormalisedMaps(split.val, normalization, device)


def open_latents(
    paths: RunPaths, device: torch.device, maps: tuple[NormalisedMaps, NormalisedMaps] | None = None
) -> Latents:
    """Latents of the frozen encoder: of these samples, or of every map of the run's split.

    Raises:
        StageError: the latents are of other samples.
    """
    from ubq.data.split import SampleIds
    from ubq.training.latents import load_latents

    known = sample_ids(paths)
    if maps is not None:
        known = SampleIds(maps[0].ids, maps[1].ids, known.sha256 if known else "")
    return load_latents(paths.latents, device, known)
