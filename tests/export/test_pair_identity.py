"""Pair i of seed s is the same pair in ``ubq sample``, a bundle's ``generate.py``, ``ubq.runtime`` and every format."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_generator import tiny_generator, tiny_recipe

from ubq.cli import main
from ubq.config.extras import missing_modules
from ubq.config.schema import QuantConfig
from ubq.export.bundle.folder import make_bundle
from ubq.export.files import export_generator
from ubq.runtime import load
from ubq.runtime.noise import pair_noise

FORMATS = {".pt": "torchscript", ".onnx": "onnx"}
SEED, COUNT = 11, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in every format that can be written here; its solver uses start noise and step noise."""
    recipe = replace(tiny_recipe(solver="ddpm"), quant=QuantConfig(backend="qnnpack"))
    formats = ("torchscript",) if missing_modules("onnx") else ("torchscript", "onnx")
    exported = tmp_path_factory.mktemp("run") / "exported_models"
    export_generator(tiny_generator(recipe), recipe, exported, "tiny", family="style-a", formats=formats)
    return make_bundle(exported).folder


def files(folder: Path) -> list[Path]:
    return [folder / f"tiny{suffix}" for suffix in FORMATS if (folder / f"tiny{suffix}").is_file()]


def test_the_noise_is_the_one_that_was_published() -> None:
    """A change of these numbers changes every pair that anyone has drawn from a seed."""
    x_T, step_noise = pair_noise(7, [0, 3], 3, 4, stochastic=True)
    assert (x_T.shape, step_noise.shape) == ((2, 1, 4), (2, 2, 1, 4))
    assert x_T.dtype == step_noise.dtype == np.float32
    noise = np.concatenate([x_T[None], step_noise])
    assert (
        hashlib.sha256(noise.astype("<f4").tobytes()).hexdigest()
        == "a3bbaa98d95f619fc19bed9495b610a611ad96b06d5b8e9324fc99a2245d4395"
    )


def test_a_pairs_noise_depends_on_its_seed_and_number_alone() -> None:
    x_T, step_noise = pair_noise(7, range(5), 4, 16, stochastic=True)
    for number in range(5):
        alone = pair_noise(7, [number], 4, 16, stochastic=True)
        np.testing.assert_array_equal(alone[0][0], x_T[number])
        np.testing.assert_array_equal(alone[1][:, 0], step_noise[:, number])
    np.testing.assert_array_equal(pair_noise(7, range(5), 9, 16, stochastic=False)[0], x_T)
    assert not pair_noise(7, range(5), 9, 16, stochastic=False)[1].any()
    assert not np.array_equal(pair_noise(8, range(5), 4, 16, stochastic=True)[0], x_T)


def test_every_format_draws_the_same_noise_to_the_bit(folder: Path) -> None:
    for file in files(folder):
        model = load(file, threads=1)
        published = pair_noise(SEED, range(COUNT), 4, model.latent_length, stochastic=True)
        for found, wanted in zip(model.noise(SEED, range(COUNT), 4), published, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_every_way_draws_the_same_pairs(folder: Path, tmp_path: Path) -> None:
    drawn = {}
    number = ["--count", str(COUNT), "--seed", str(SEED)]
    for file in files(folder):
        for batch in (1, COUNT):
            pairs = load(file, threads=1).sample_pairs(COUNT, seed=SEED, batch=batch)
            drawn[f"ubq.runtime {file.suffix} {batch}"] = pairs
        out = tmp_path / f"sample{file.suffix}"
        assert main(["sample", str(file), *number, "--out", str(out), "--json"]) == 0
        drawn[f"ubq sample {file.suffix}"] = np.load(out / "model/model1.npy"), np.load(out / "data/data1.npy")
        out = tmp_path / f"script{file.suffix}"
        script = [sys.executable, "-I", str(folder / "generate.py"), "--runtime", FORMATS[file.suffix], *number]
        subprocess.run([*script, "--out", str(out)], check=True, capture_output=True)
        drawn[f"generate.py {file.suffix}"] = np.load(out / "velocity.npy"), np.load(out / "seismic.npy")
    for suffix in {file.suffix for file in files(folder)}:
        ways = {name: pair for name, pair in drawn.items() if suffix in name}
        first = next(iter(ways.values()))
        for name, pair in ways.items():
            for found, wanted in zip(pair, first, strict=True):
                assert np.linalg.norm(found - wanted) <= 1e-3 * np.linalg.norm(wanted), name
