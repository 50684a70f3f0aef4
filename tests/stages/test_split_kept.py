"""The split is decided once; a stage that meets other samples stops with one line; runs without it go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ubq.config.schema import Config
from ubq.data.normalization import Normalization
from ubq.data.pairs import open_pairs
from ubq.data.split import split_to_dict
from ubq.errors import DataError, StageError
from ubq.stages.maps import open_latents, open_maps, open_split, sample_ids
from ubq.stages.paths import RunPaths
from ubq.training.latents import save_latents

CPU = torch.device("cpu")
SCALE = Normalization(-26.48, 52.32, 1500, 4500)


class Middle(torch.nn.Module):
    """An encoder whose latent is two cells of the map."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps[:, 0, 0, :2]


@pytest.fixture
def run(tmp_path: Path) -> tuple[Config, RunPaths]:
    """Six maps in three files, two of them with gathers, as ``prepare`` and the autoencoder leave them."""
    for number in (0, 1, 32):
        maps = np.full((2, 1, 70, 70), 2000.0 + 10 * number, np.float32)
        maps[1] += 1
        np.save(tmp_path / f"vel2_1_{number}.npy", maps)
        if number != 1:
            np.save(tmp_path / f"seis2_1_{number}.npy", np.full((2, 5, 1000, 70), number + 1, np.float32))
    config = Config.model_validate({"data": {"train_velocity": str(tmp_path)}})
    paths = RunPaths(tmp_path / "run")
    paths.data.mkdir(parents=True)
    split = open_pairs(config.data, 0)
    (paths.data / "dataset.json").write_text(json.dumps({"split": split_to_dict(split, paths.root)}))
    train, val = open_maps(config, paths, SCALE, CPU, seismic=False)
    save_latents(Middle(), {"train": train, "val": val}, paths.latents, sample_ids(paths))
    return config, paths


def test_later_stages_take_the_split_as_it_was_decided(run: tuple[Config, RunPaths]) -> None:
    config, paths = run
    changed = config.model_copy(update={"seed": 9, "data": config.data.model_copy(update={"train_velocity": "gone"})})
    split = open_split(changed, paths, seismic=False)
    assert (len(split.train), len(split.val)) == (4, 2)
    assert len(open_split(changed, paths, seismic=True).train) == 2


def test_latents_belong_to_their_samples_and_not_to_a_position(run: tuple[Config, RunPaths]) -> None:
    config, paths = run
    every = open_latents(paths, CPU)
    assert (len(every.train), len(every.val)) == (4, 2)
    maps = open_maps(config, paths, SCALE, CPU, seismic=True)
    latents = open_latents(paths, CPU, maps)
    for side, own in zip(maps, (latents.train, latents.val), strict=True):
        assert torch.equal(own, Middle()(side.velocity(torch.arange(len(side)))))
        assert side.seismic(torch.arange(len(side))).shape[0] == len(own)


def other_ids(paths: RunPaths) -> None:
    stored = torch.load(paths.latents)
    torch.save({**stored, "train_ids": stored["train_ids"] + 100}, paths.latents)


def other_split(paths: RunPaths) -> None:
    written = json.loads((paths.data / "dataset.json").read_text())
    written["split"]["sha256"] = "0" * 64
    (paths.data / "dataset.json").write_text(json.dumps(written))


def fewer_latents_of_an_older_run(paths: RunPaths) -> None:
    stored = torch.load(paths.latents)
    torch.save({"train": stored["train"][:3], "val": stored["val"]}, paths.latents)


@pytest.mark.parametrize("spoil", [other_ids, other_split, fewer_latents_of_an_older_run])
def test_latents_of_other_samples_stop_a_stage(run: tuple[Config, RunPaths], spoil: Callable[[RunPaths], None]) -> None:
    spoil(run[1])
    with pytest.raises(StageError, match=r"latents.pt is not of the samples that the stage prepare chose"):
        open_latents(run[1], CPU)


def test_data_of_another_content_or_count_stop_a_stage(run: tuple[Config, RunPaths]) -> None:
    config, paths = run
    place = Path(config.data.train_velocity)
    np.save(place / "vel2_1_32.npy", np.full((3, 1, 70, 70), 2500, np.float32))
    with pytest.raises(DataError, match=r"vel2_1_32.npy is not the file that the stage prepare read"):
        open_maps(config, paths, SCALE, CPU, seismic=False)
    (place / "vel2_1_32.npy").unlink()
    with pytest.raises(DataError, match=r"vel2_1_32.npy"):
        open_maps(config, paths, SCALE, CPU, seismic=False)


def test_a_run_that_kept_neither_goes_on(run: tuple[Config, RunPaths]) -> None:
    config, paths = run
    (paths.data / "dataset.json").write_text(json.dumps({"samples": 6}))
    stored = torch.load(paths.latents)
    torch.save({side: stored[side] for side in ("train", "val")}, paths.latents)
    assert sample_ids(paths) is None
    assert len(open_latents(paths, CPU).train) == 4
    assert len(open_split(config, paths, seismic=False).train) == 4
