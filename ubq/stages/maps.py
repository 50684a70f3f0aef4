"""The run's samples as the training tasks want them: normalised, on the training device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.schema import Config, DataConfig
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ubq.data.normalization import Normalization
    from ubq.data.pairs import Pairs


def synthetic_folder(paths: RunPaths) -> Path:
    """Where ``prepare`` puts the pairs it synthesises."""
    return paths.data / "synthetic"


def further_file(paths: RunPaths) -> Path:
    """Where ``prepare`` puts the maps it synthesises without gathers."""
    return paths.data / "further_maps.npy"


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

    def velocity(self, samples: Tensor) -> Tensor:
        """(B, 1, 70, 70) in [-1, 1]."""
        velocity = self._pairs.velocity_batch(samples.tolist())
        return self._normalization.velocity(velocity.to(self._device, non_blocking=True))

    def seismic(self, samples: Tensor) -> Tensor:
        """(B, 5, 1000, 70), log-normalised to [-1, 1]."""
        wanted, ahead, self._ahead = samples.tolist(), self._ahead, None
        if ahead is not None and ahead[0] == wanted:
            batch = ahead[1].result()
        elif self._reader is not None:
            batch = self._pinned_gathers(wanted)
        else:
            batch = self._pairs.seismic_batch(wanted)
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
            wanted = samples.tolist()
            self._ahead = wanted, self._reader.submit(self._pinned_gathers, wanted)


def open_maps(
    config: Config, paths: RunPaths, normalization: Normalization, device: torch.device, *, seismic: bool
) -> tuple[NormalisedMaps, NormalisedMaps]:
    """Training and held-out samples; without ``seismic`` no seismic file is opened."""
    from ubq.data.pairs import open_pairs

    split = open_pairs(data_of(config, paths), config.seed, seismic, seismic_shape(config))
    return NormalisedMaps(split.train, normalization, device), NormalisedMaps(split.val, normalization, device)


def further_pairs(config: Config, paths: RunPaths) -> Pairs | None:
    """The training maps without gathers, where there are any."""
    from ubq.data.pairs import maps_of_file

    wanted = config.data.synth_maps and not config.data.train_velocity
    return maps_of_file(further_file(paths)) if wanted else None


def open_all_velocity(
    config: Config, paths: RunPaths, normalization: Normalization, device: torch.device
) -> tuple[NormalisedMaps, dict[str, NormalisedMaps]]:
    """Every training map; and by side those with gathers, the held-out ones, and those without (``further``)."""
    from ubq.data.pairs import open_pairs

    split = open_pairs(data_of(config, paths), config.seed, need_seismic=False)
    sides = {"train": split.train, "val": split.val}
    every, further = split.train, further_pairs(config, paths)
    if further is not None:
        sides["further"] = further
        every = every + further
    return NormalisedMaps(every, normalization, device), {
        side: NormalisedMaps(pairs, normalization, device) for side, pairs in sides.items()
    }
