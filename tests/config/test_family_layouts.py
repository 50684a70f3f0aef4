"""Each data set's file names and split work from its preset to a training step."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from ubq.config.load import load_config
from ubq.config.schema import Family
from ubq.data.families import FAMILIES
from ubq.jobs.plan import Selection
from ubq.jobs.run import start_run
from ubq.jobs.state import COMPLETED, read_state
from ubq.stages.paths import RunPaths

TINY = {
    "threads": 1,
    "model.encoder_dim": 16,
    "model.unet_dim": 8,
    "model.dim_mults": [1, 2, 2, 2],
    "model.encoder_dims": [4, 8, 8, 8],
    "model.velocity_latent": 8,
    "model.velocity_dims": [4, 8, 8, 8, 16],
    "model.seismic_latent": 8,
    "model.seismic_depth": 1,
    "train.autoencoder.steps": 1,
    "train.autoencoder.batch_size": 2,
    "train.seismic.steps": 1,
    "train.seismic.batch_size": 2,
    "train.seismic.modelled_pairs": 2,
    "train.diffusion.steps": 1,
    "train.diffusion.batch_size": 2,
    "distill.updates": 1,
    "distill.batch_size": 2,
    "distill.trajectories": 2,
}


# of each way to lay files out, one is tried by default
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=() if family in ("curvevel-a", "flatfault-a", "style-a") else pytest.mark.slow)
        for family in get_args(Family)
    ],
)
def test_one_step_on_each_layout(family: Family, tmp_path: Path) -> None:
    facts = FAMILIES[family]
    random = np.random.default_rng(0)
    samples = {"train": 2, "val": 1}
    for side, count in samples.items():
        file = facts.file_ids(side)[-1]  # type: ignore[arg-type]
        velocity = random.uniform(1500, 4500, (count, 1, 70, 70)).astype(np.float32)
        seismic = random.uniform(*facts.amplitude, (count, 5, 1000, 70)).astype(np.float32)
        for kind, array in (("velocity", velocity), ("seismic", seismic)):
            path = tmp_path / "set" / file.relative_path(kind)  # type: ignore[arg-type]
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)
    folder = str(tmp_path / "set")
    overrides = {**TINY, "data.train_velocity": folder, "data.train_seismic": folder, "run.dir": str(tmp_path)}
    loaded = load_config(family, overrides, isolated=True)
    paths = RunPaths(tmp_path / family)

    code = start_run(loaded.config, paths, preset=family, selection=Selection("", "train-seismic", ""), preflight=False)

    assert code == 0
    state = read_state(paths.state)
    assert state is not None
    assert {s.name: s.step for s in state.stages if s.state == COMPLETED}["train-seismic"] == 1
    dataset = (paths.data / "dataset.json").read_text()
    assert f"official file numbers of {family}" in dataset
