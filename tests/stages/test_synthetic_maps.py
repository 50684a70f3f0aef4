"""Maps without gathers: synthesised beside the pairs, and trained on by what needs no gather."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ubq.config.load import load_config
from ubq.config.schema import Config
from ubq.data.normalization import for_config
from ubq.data.pairs import maps_of_file, open_pairs
from ubq.data.split import split_to_dict
from ubq.data.synthetic import synthesise_velocity, write_maps, write_synthetic
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.stages.autoencoder import TrainAutoencoder
from ubq.stages.diffusion import TrainDiffusion
from ubq.stages.maps import data_of, maps_alone, open_latents, open_maps, synthetic_folder
from ubq.stages.paths import RunPaths

CPU = torch.device("cpu")


def smoke(**changes: object) -> Config:
    settings = {"data.synth_maps": 5, "threads": 1, "train.autoencoder.steps": 2, "train.diffusion.steps": 2}
    return load_config("smoke", settings | changes, isolated=True).config


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """What ``prepare`` leaves: six training pairs and four held out, whose gathers are zeros here, and five maps."""
    paths, config = RunPaths(tmp_path / "run"), smoke()
    for file in write_synthetic("curvefault-a", 6, 4, config.seed, synthetic_folder(paths)):
        gathers = file.with_name(file.name.replace("vel", "seis"))
        np.save(gathers, np.zeros((len(np.load(file, mmap_mode="r")), 5, 1000, 70), np.float32))
    write_maps(maps_alone(paths), config.data, config.seed, start=6)
    split = open_pairs(data_of(config, paths), config.seed).with_training_maps(maps_of_file(maps_alone(paths)))
    (paths.data / "dataset.json").write_text(json.dumps({"split": split_to_dict(split, paths.root)}))
    return paths


def test_they_go_on_where_the_training_pairs_end(paths: RunPaths) -> None:
    config = smoke()
    train, val = open_maps(config, paths, for_config(config.data), CPU, seismic=False)
    assert (len(train), len(val)) == (11, 4)
    wanted = synthesise_velocity("curvefault-a", 11, config.seed)
    found = for_config(config.data).unvelocity(train.velocity(torch.arange(11)))
    np.testing.assert_allclose(found, wanted, atol=0.01)
    pairs, held_out = open_maps(config, paths, for_config(config.data), CPU, seismic=True)
    assert (len(pairs), len(held_out)) == (6, 4), "the seismic decoder learns of those with gathers"


def test_autoencoder_and_unet_train_on_them(paths: RunPaths) -> None:
    stages = [TrainAutoencoder(), TrainDiffusion()]
    assert start_run(smoke(), paths, stages=stages, preflight=False, console=QuietConsole()) == 0
    latents = open_latents(paths, CPU)
    assert (len(latents.train), len(latents.val)) == (11, 4)
