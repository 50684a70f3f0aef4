"""Pairs modelled of decoded maps: drawn, resumed, and what the seismic decoder learns of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from test_distill import Context

from ubq.config.load import load_config
from ubq.config.schema import Config
from ubq.data.normalization import for_config
from ubq.data.pairs import maps_of_file, open_pairs
from ubq.data.split import split_to_dict
from ubq.data.synthetic import write_maps, write_synthetic
from ubq.errors import StageError
from ubq.jobs.console import QuietConsole
from ubq.jobs.plan import Selection, plan
from ubq.jobs.run import start_run
from ubq.jobs.state import read_state
from ubq.model.parts import AUTOENCODER, UNET
from ubq.runtime.wave import WaveEquation
from ubq.stages import PIPELINE, modelled, qat_decoders
from ubq.stages.base import Stopped
from ubq.stages.estimate import disk_needed, estimate
from ubq.stages.floatmodel import new_parts, state_of, trained_parts
from ubq.stages.maps import data_of, maps_alone, open_maps, sample_ids, synthetic_folder
from ubq.stages.model_pairs import ModelPairs
from ubq.stages.modelled import open_training_pairs
from ubq.stages.paths import RunPaths
from ubq.stages.qat_decoders import QatDecoders
from ubq.stages.seismic import TrainSeismic
from ubq.training.files import load_tensors, save_tensors
from ubq.training.latents import save_latents
from ubq.training.qat import QatDecodersTask

CPU = torch.device("cpu")
REAL, ALONE, HELD_OUT, SAMPLES = 6, 5, 4, 40


def smoke(pairs: int = 8, **changes: object) -> Config:
    settings = {
        "data.synth_maps": ALONE,
        "data.workers": 1,
        "device": "cpu",
        "model.seismic_samples": SAMPLES,
        "threads": 1,
        "train.seismic.modelled_pairs": pairs,
    }
    return load_config("smoke", settings | changes, isolated=True).config


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """What the stages before leave: pairs whose gathers are zeros, maps without, an autoencoder and a U-Net."""
    paths, config = RunPaths(tmp_path / "run"), smoke()
    for file in write_synthetic("curvefault-a", REAL, HELD_OUT, config.seed, synthetic_folder(paths)):
        gathers = file.with_name(file.name.replace("vel", "seis"))
        np.save(gathers, np.zeros((len(np.load(file, mmap_mode="r")), 5, SAMPLES, 70), np.float32))
    write_maps(maps_alone(paths), config.data, config.seed, start=REAL)
    split = open_pairs(data_of(config, paths), config.seed, seismic_shape=(5, SAMPLES, 70))
    split = split.with_training_maps(maps_of_file(maps_alone(paths)))
    (paths.data / "dataset.json").write_text(json.dumps({"split": split_to_dict(split, paths.root)}))
    autoencoder = new_parts(config, paths, AUTOENCODER, CPU, "train-autoencoder")
    with torch.no_grad():  # fresh weights make all latents almost the same map
        for parameter in autoencoder["velocity_projector"].parameters():
            parameter.mul_(100)
    save_tensors(paths.checkpoints("train-autoencoder") / "autoencoder.pt", state_of(autoencoder))
    with_unet(paths, "train-diffusion")
    train, val = open_maps(config, paths, for_config(config.data), CPU, seismic=False)
    save_latents(autoencoder["encoder"], {"train": train, "val": val}, paths.latents, sample_ids(paths))
    return paths


def with_unet(paths: RunPaths, key: str) -> None:
    unet = new_parts(smoke(), paths, UNET, CPU, key)
    save_tensors(paths.checkpoints("train-diffusion") / "diffusion.pt", state_of(unet))


@pytest.fixture
def modelling(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Gathers that hold a cell of their map in km/s; the maps in the order of modelling."""
    maps: list[bytes] = []

    def gathers(velocity: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        maps.append(velocity.tobytes())
        return np.full(shape, velocity[0, 30, 30] / 1000, np.float32)

    monkeypatch.setattr("ubq.data.forward.wave_gathers", gathers)
    return maps


def model(config: Config, paths: RunPaths, stop_at: int = 0) -> None:
    ModelPairs().run(Context(config, paths, "model-pairs", stop_at))


def drawn(paths: RunPaths) -> torch.Tensor:
    return load_tensors(paths.modelled / "latents.pt")["latents"].clone()


def test_the_gather_is_that_of_the_latents_own_decoded_map(paths: RunPaths) -> None:
    config = smoke(1)
    model(config, paths)
    ranges = for_config(config.data)
    pairs = open_training_pairs(config, paths, ranges, CPU)
    last = torch.tensor([REAL])
    parts = trained_parts(config, paths, ("velocity_projector", "velocity_decoder"), CPU)
    with torch.no_grad():
        decoded = parts["velocity_decoder"](parts["velocity_projector"](pairs.latents.train_of(last)))
    torch.testing.assert_close(pairs.train.velocity(last), decoded, atol=1e-5, rtol=0)
    solver = WaveEquation(sources=(0, 17, 34, 52, 69), samples=SAMPLES, **ACQUISITION)
    own = solver(ranges.unvelocity(decoded).numpy())
    found = ranges.unseismic(pairs.train.seismic(last)).numpy()
    assert np.linalg.norm(found - own) < 0.01 * np.linalg.norm(own) > 0


ACQUISITION = {"depth": 1, "cell": 10.0, "time_step": 1e-3, "peak_frequency": 15.0, "wavelet_peak": 0.073,
               "absorbing_cells": 20}  # fmt: skip


def test_half_of_the_latents_are_the_encoders_by_the_ids_of_their_maps(paths: RunPaths, modelling: list[bytes]) -> None:
    model(smoke(8), paths)
    stored = load_tensors(paths.modelled / "latents.pt")
    known = load_tensors(paths.latents)
    place = {tuple(ids): row for row, ids in enumerate(known["train_ids"].tolist())}
    rows = [place[tuple(ids)] for ids in stored["samples"][::2].tolist()]
    assert len(set(rows)) == 4
    assert torch.equal(stored["latents"][::2], known["train"][rows])
    assert (stored["samples"][1::2] == -1).all()
    assert not torch.isin(stored["latents"][1::2, 0], known["train"][:, 0]).any()


def test_where_the_training_maps_are_used_up_the_sampler_draws_the_rest(
    paths: RunPaths, modelling: list[bytes]
) -> None:
    model(smoke(30), paths)
    samples = load_tensors(paths.modelled / "latents.pt")["samples"]
    assert len(samples) == 30
    assert int((samples[:, 0] >= 0).sum()) == REAL + ALONE
    assert len(drawn(paths).unique(dim=0)) == 30


def test_stopped_and_resumed_it_models_each_map_once(
    paths: RunPaths, modelling: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelled, "PAIRS_PER_FILE", 3)
    monkeypatch.setattr("ubq.stages.model_pairs.PAIRS_PER_FILE", 3)
    with pytest.raises(Stopped):
        model(smoke(8), paths, stop_at=5)
    assert len(modelling) == 4
    latents = drawn(paths)
    model(smoke(8), paths)
    assert len(modelling) == len(set(modelling)) == 8
    assert torch.equal(drawn(paths), latents)
    pairs = open_training_pairs(smoke(8), paths, for_config(smoke().data), CPU)
    every = torch.arange(REAL, REAL + 8)
    said = for_config(smoke().data).unseismic(pairs.train.seismic(every))[:, 0, 0, 0]
    cells = for_config(smoke().data).unvelocity(pairs.train.velocity(every))[:, 0, 30, 30]
    torch.testing.assert_close(said * 1000, cells, rtol=1e-5, atol=0)


def test_more_pairs_go_on_from_those_that_are_there(
    paths: RunPaths, modelling: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modelled, "PAIRS_PER_FILE", 2)
    monkeypatch.setattr("ubq.stages.model_pairs.PAIRS_PER_FILE", 2)
    model(smoke(4), paths)
    before = drawn(paths)
    model(smoke(6), paths)
    assert len(modelling) == 6
    assert torch.equal(drawn(paths)[:4], before)
    model(smoke(2), paths)
    assert len(modelling) == 6
    assert {p.name for p in paths.modelled.glob("*.npy")} == {"model1.npy", "data1.npy"}


def test_another_sampler_draws_other_pairs(paths: RunPaths, modelling: list[bytes]) -> None:
    model(smoke(4), paths)
    before = drawn(paths)
    with_unet(paths, "another")
    model(smoke(4), paths)
    assert torch.equal(drawn(paths)[::2], before[::2])
    assert not torch.isclose(drawn(paths)[1::2], before[1::2]).all(1).any()


def foreign_maps(paths: RunPaths) -> None:
    maps = np.load(paths.modelled / "model1.npy")
    np.save(paths.modelled / "model1.npy", maps + 1)


def fewer_latents(paths: RunPaths) -> None:
    stored = load_tensors(paths.modelled / "latents.pt")
    save_tensors(paths.modelled / "latents.pt", {**stored, "latents": stored["latents"][:3].clone()})


@pytest.mark.parametrize("spoil", [foreign_maps, fewer_latents])
def test_latents_of_other_maps_stop_a_stage(
    paths: RunPaths, modelling: list[bytes], spoil: Callable[[RunPaths], None]
) -> None:
    model(smoke(4), paths)
    spoil(paths)
    with pytest.raises(StageError, match="not of the maps that lie beside it"):
        open_training_pairs(smoke(4), paths, for_config(smoke().data), CPU)


def test_the_head_is_fitted_to_real_and_modelled_gathers(paths: RunPaths, modelling: list[bytes]) -> None:
    """The real gathers are zeros, the modelled ones are not: what the head then says of the training latents."""
    said = {}
    for pairs in (0, 8):
        config = smoke(pairs, **{"train.seismic.steps": 0, "train.seismic.epochs": 0})
        if pairs:
            model(config, paths)
        TrainSeismic().run(Context(config, paths, "train-seismic"))
        state = load_tensors(paths.checkpoints("train-seismic") / "seismic.pt")
        said[pairs] = state["seismic_decoder.output.bias"].clone()
    zero = for_config(smoke().data).seismic(torch.zeros(1))
    torch.testing.assert_close(said[0], zero.expand_as(said[0]), atol=1e-3, rtol=0)
    assert (said[8] - zero).abs().min() > 0.05


def test_quantisation_aware_training_learns_of_the_same_pairs(
    paths: RunPaths, modelling: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smoke(8, **{"train.seismic.steps": 0, "train.seismic.epochs": 0})
    model(config, paths)
    TrainSeismic().run(Context(config, paths, "train-seismic"))
    tasks: list[QatDecodersTask] = []
    monkeypatch.setattr(qat_decoders, "run_training", lambda context, task, *rest: tasks.append(task))
    monkeypatch.setattr(qat_decoders, "write_stage_analysis", lambda *arguments: None)
    QatDecoders().run(Context(config, paths, "qat-decoders"))
    (task,) = tasks
    assert task.train_samples == len(task.latents.train) == REAL + 8
    assert torch.equal(task.latents.train[REAL:], drawn(paths))
    assert len(task.latents.val) == HELD_OUT


def test_another_number_runs_what_learns_of_the_pairs_and_nothing_before(
    paths: RunPaths, modelling: list[bytes]
) -> None:
    keep = ("model-pairs", "train-seismic")
    stages = [stage for stage in PIPELINE if stage.name in keep]
    short = {"train.seismic.steps": 1}
    assert start_run(smoke(4, **short), paths, stages=stages, preflight=False, console=QuietConsole()) == 0
    actions = {}
    for pairs in (4, 6, 0):
        planned = plan(smoke(pairs, **short), paths, stages, read_state(paths.state), Selection())
        actions[pairs] = {item.name: (item.action, item.reasons) for item in planned}
    assert actions[4] == dict.fromkeys(keep, ("up to date", ()))
    assert actions[6]["model-pairs"] == ("run", ("train.seismic.modelled_pairs 4 -> 6",))
    assert actions[6]["train-seismic"][0] == "run"
    assert set(actions[0]) == {"train-seismic"}
    assert actions[0]["train-seismic"][0] == "run"
    readers = {stage.name for stage in PIPELINE if "model-pairs" in stage.after}
    assert readers == {"train-seismic", "qat-decoders"}
    order = [stage.name for stage in PIPELINE]
    assert order.index("distill") < order.index("model-pairs") < order.index("train-seismic")


def test_time_and_disk_are_estimated(paths: RunPaths) -> None:
    none, some = smoke(0), smoke(1000)
    pair = 4 * (5 * SAMPLES * 70 + 70 * 70 + some.model.encoder_dim)
    assert disk_needed(some, ["model-pairs"], {}) == 1000 * pair
    assert estimate(some, ())["pairs"] - estimate(none, ())["pairs"] == 1000
    by_epochs = {"train.seismic.steps": 0, "train.seismic.epochs": 1}
    assert estimate(smoke(1000, **by_epochs), ())["operations"] > estimate(smoke(0, **by_epochs), ())["operations"]
    imported = smoke(1000, **{"pretrained.path": "model.pt"})
    assert not ModelPairs().applies(imported)
    assert estimate(imported, ())["pairs"] == estimate(none, ())["pairs"]


def test_gathers_that_nothing_models_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"train.seismic.modelled_pairs: 0 unless model.receivers is 70"):
        Config.model_validate({"model": {"receivers": 35}, "train": {"seismic": {"modelled_pairs": 5}}})
    Config.model_validate({"model": {"receivers": 35}})
