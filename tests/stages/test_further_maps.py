"""Maps without gathers: synthesised beside the pairs, and trained on by what needs no gather."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ubq.config.load import load_config
from ubq.config.schema import Config
from ubq.data.synthetic import synthesise_velocity, write_maps, write_synthetic
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.stages.autoencoder import TrainAutoencoder
from ubq.stages.diffusion import TrainDiffusion
from ubq.stages.maps import further_file, further_pairs, open_all_velocity, synthetic_folder
from ubq.stages.paths import RunPaths
from ubq.training.latents import load_latents

CPU = torch.device("cpu")


def smoke(**changes: object) -> Config:
    settings = {"data.synth_maps": 5, "threads": 1, "train.autoencoder.steps": 2, "train.diffusion.steps": 2}
    return load_config("smoke", settings | changes, isolated=True).config


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths, config = RunPaths(tmp_path / "run"), smoke()
    write_synthetic("curvefault-a", 6, 4, config.seed, synthetic_folder(paths))
    write_maps(further_file(paths), config.data, config.seed, start=6)
    return paths


def test_they_go_on_where_the_training_pairs_end(paths: RunPaths) -> None:
    from ubq.data.normalization import for_config

    every, sides = open_all_velocity(smoke(), paths, for_config(smoke().data), CPU)
    assert [len(sides[side]) for side in ("train", "val", "further")] == [6, 4, 5]
    wanted = synthesise_velocity("curvefault-a", 11, smoke().seed)
    found = for_config(smoke().data).unvelocity(every.velocity(torch.arange(11)))
    np.testing.assert_allclose(found, wanted, atol=0.01)


def test_autoencoder_and_unet_train_on_them(paths: RunPaths) -> None:
    stages = [TrainAutoencoder(), TrainDiffusion()]
    assert start_run(smoke(), paths, stages=stages, preflight=False, console=QuietConsole()) == 0
    latents = load_latents(paths.latents, CPU)
    assert [len(latents.train), len(latents.val)] == [6, 4]
    assert latents.further is not None
    assert len(latents.every) == 11
    assert torch.equal(latents.every[6:], latents.further)


def test_a_run_with_data_of_its_own_has_none(paths: RunPaths) -> None:
    own = smoke(**{"data.train_velocity": str(synthetic_folder(paths))})
    assert further_pairs(own, paths) is None
    assert further_pairs(smoke(**{"data.synth_maps": 0}), paths) is None
