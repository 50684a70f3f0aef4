"""``studies/inversion_net.py`` on a handful of pairs of noise: it ends in a table, goes on, and refuses unfair data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import inversion_net
import numpy as np
import pytest
import torch

from ubq.acquisition import SOURCES
from ubq.errors import DataError, UsageError

PAIRS = 4


def write_pairs(folder: Path, map_seed: int, gather_seed: int) -> Path:
    """Pairs of noise as ``ubq sample`` lays them out."""
    folder.mkdir()
    maps = np.random.default_rng(map_seed).uniform(1500, 4500, (PAIRS, 1, 70, 70))
    gathers = np.random.default_rng(gather_seed).normal(size=(PAIRS, 5, 1000, 70))
    np.save(folder / "model1.npy", maps.astype(np.float32))
    np.save(folder / "data1.npy", gathers.astype(np.float32))
    return folder


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    real, test = (write_pairs(tmp_path / name, seed, seed) for seed, name in enumerate(("real", "test")))
    wave, decoder = (write_pairs(tmp_path / name, 2, seed) for seed, name in ((2, "wave"), (3, "decoder")))
    places = [word for name, folder in (("real", real), ("test", test)) for word in (f"--{name}", folder, folder)]
    settings = ["--seeds", "2", "--steps", "2", "--batch", "4", "--width", "2", "--pool", "8"]
    words = [*places, "--wave", wave, "--decoder", decoder, "--out", tmp_path / "out", *settings]
    return inversion_net.parsed([str(word) for word in words])


def changed(arguments: argparse.Namespace, **values: object) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(arguments), **values})


def test_ends_in_a_table_and_trains_nothing_twice(arguments: argparse.Namespace) -> None:
    first = inversion_net.run(changed(arguments, arms=["A", "B"], wave=None, decoder=None))
    assert "| B - A |" in first
    assert "D - A" not in first
    whole = inversion_net.run(arguments)
    assert all(f"| {name} |" in whole for name in ("A", "B", "C", "D", "E", "D - A", "E - A", "D - E"))
    figures = json.loads((arguments.out / "result.json").read_bytes())
    a, d = (json.loads((arguments.out / f"{arm}-1.json").read_bytes()) for arm in "AD")
    assert len(a["errors"]) == PAIRS
    assert (a["pairs"], d["pairs"]) == ({"real": PAIRS}, {"real": PAIRS, "wave": PAIRS})
    assert figures["mae"]["A"] != figures["mae"]["D"]

    kept = {path: path.stat().st_mtime_ns for path in arguments.out.glob("[A-E]-*.json")}
    (arguments.out / "E-1.json").unlink()
    errors = json.loads((arguments.out / "E-0.json").read_bytes())["errors"]
    assert inversion_net.run(arguments).split("intervals")[0] == whole.split("intervals")[0], "the same to the bit"
    assert errors == json.loads((arguments.out / "E-0.json").read_bytes())["errors"]
    again = {path: path.stat().st_mtime_ns for path in arguments.out.glob("[A-E]-*.json")}
    assert {path.name for path in kept if again[path] != kept[path]} == {"E-1.json"}


def test_refuses_what_would_not_be_fair(arguments: argparse.Namespace) -> None:
    with pytest.raises(DataError, match="test maps"):
        inversion_net.run(changed(arguments, test=arguments.real))
    with pytest.raises(DataError, match="different maps"):
        inversion_net.run(changed(arguments, decoder=arguments.real[0]))
    with pytest.raises(UsageError, match="--wave"):
        inversion_net.run(changed(arguments, wave=None))
    inversion_net.run(changed(arguments, arms=["A"], seeds=1))
    with pytest.raises(UsageError, match="other settings"):
        inversion_net.run(changed(arguments, steps=3))


def test_a_mirrored_pair_is_that_of_the_mirrored_acquisition() -> None:
    offsets = torch.arange(70.0).expand(1, 5, 10, 70)
    sources = torch.tensor(SOURCES, dtype=torch.float32)[None, :, None, None]
    velocity, distance = inversion_net.mirrored(torch.arange(70.0).expand(1, 1, 70, 70), (offsets - sources).abs())
    assert velocity[0, 0, 0].tolist() == list(range(69, -1, -1))
    assert (distance - (offsets - sources).abs()).abs().max() <= 1, "one cell, of the source that has no partner"


@pytest.mark.parametrize("samples", [125, 250, 500, 1000])
def test_every_pooling_ends_in_a_map(samples: int) -> None:
    with torch.no_grad():
        assert inversion_net.InversionNet(samples, width=1)(torch.zeros(2, 5, samples, 70)).shape == (2, 1, 70, 70)


def test_an_interval_is_paired_and_of_seeds_too() -> None:
    rng = np.random.default_rng(1)
    hard = rng.uniform(50, 500, 200)
    other = np.stack([hard, hard, hard])
    found = inversion_net.difference(0.9 * other, other)
    assert [found.percent, found.percent_low, found.percent_high] == pytest.approx([-10, -10, -10])
    assert found.value == pytest.approx(-0.1 * hard.mean())
    assert found.low < found.value < found.high < 0
    unsure = inversion_net.difference(other * np.array([[0.7], [1.0], [1.2]]), other)
    assert unsure.low < 0 < unsure.high
