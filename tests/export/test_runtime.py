"""``ubq.runtime``: one interface to every file, with no more imported than the file's runtime needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ubq.acquisition import SOURCES
from ubq.errors import UsageError
from ubq.runtime import load
from ubq.runtime.generator import LoadedModel, SamplerTables, SteppingGenerator
from ubq.runtime.wave import WaveEquation

ONNX, TORCHSCRIPT = ".onnx", ".pt"


@pytest.fixture(scope="module", params=[ONNX, TORCHSCRIPT])
def loaded(request: pytest.FixtureRequest, with_onnx) -> LoadedModel:
    return load(with_onnx.file(request.param), threads=1)


def test_pairs_have_the_shapes_and_units_of_openfwi(loaded) -> None:
    velocity, seismic = loaded.sample(2, 0, 7)
    assert (velocity.shape, seismic.shape) == ((2, 1, 70, 70), (2, 5, 1000, 70))
    assert velocity.dtype == seismic.dtype == np.float32
    assert np.isfinite(seismic).all()
    assert velocity.min() >= 1499
    assert velocity.max() <= 4501
    assert not np.array_equal(velocity[0], velocity[1])


def test_a_seed_repeats_and_more_pairs_leave_the_first_as_they_are(loaded) -> None:
    velocity, seismic = loaded.sample(n=1, steps=2, seed=3)
    more, _gathers = loaded.sample(n=3, steps=2, seed=3)
    np.testing.assert_array_equal(more[:1], velocity)
    assert not np.array_equal(loaded.sample(1, 2, 4)[1], seismic)
    assert not np.array_equal(loaded.sample(1)[0], loaded.sample(1)[0]), "without a seed every call draws anew"
    assert not np.array_equal(loaded(1)[0], loaded.forward(1)[0])


def test_the_three_calls_of_the_exported_file(loaded) -> None:
    x_T, step_noise = loaded.noise(5, range(3), 4)
    latent = loaded.sample(x_T, step_noise, 4)
    assert latent.shape == x_T.shape == (3, 1, loaded.latent_length)
    np.testing.assert_array_equal(latent, loaded.sample(x_T=x_T, step_noise=step_noise, steps=0))
    drawn = loaded.sample_pairs(3, 4, seed=5, batch=3, gathers="decoder")
    for row in range(3):
        velocity, seismic = loaded.decode(latent[row : row + 1])
        np.testing.assert_array_equal(velocity[0], drawn[0][row])
        np.testing.assert_array_equal(seismic[0], drawn[1][row])


def test_a_pairs_gather_is_the_wave_equations_unless_the_decoders_is_asked_for(loaded) -> None:
    velocity, seismic = loaded.sample(n=1, steps=2, seed=3)
    maps, guess = loaded.sample(n=1, steps=2, seed=3, gathers="decoder")
    np.testing.assert_array_equal(maps, velocity)
    assert np.linalg.norm(guess - seismic) > 0.1 * np.linalg.norm(seismic)
    np.testing.assert_array_equal(loaded.gathers(velocity), seismic)
    wanted = WaveEquation(SOURCES, 1000, 1, 10.0, 1e-3, 15.0, 0.073, 20)(velocity)
    assert np.linalg.norm(seismic - wanted) < 1e-5 * np.linalg.norm(wanted)
    maps, modelled = loaded.simulate(1, 2)
    np.testing.assert_array_equal(loaded.gathers(maps), modelled)


def test_pairs_made_side_by_side_are_those_made_one_by_one(with_onnx) -> None:
    """To the bit and in their order, and with a draw that is left before its end; the threads are as they were."""
    before = torch.get_num_threads()
    try:
        one_by_one = list(load(with_onnx.file(TORCHSCRIPT), 1).draw(range(11), seed=3, batch=2))
        model = load(with_onnx.file(TORCHSCRIPT), 3)
        at_once: list[int] = []
        together: list[int] = []

        def gathers(velocity):
            at_once.append(1)
            together.append(len(at_once))
            made = type(model).gathers(model, velocity)
            at_once.pop()
            return made

        model.gathers = gathers
        side_by_side = list(model.draw(range(11), seed=3, batch=2))
        assert max(together) > 1
        for pair, same in zip(one_by_one, side_by_side, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(pair, same, strict=True))
        begun = model.draw(range(11), seed=3, batch=2)
        assert np.array_equal(next(begun)[1], one_by_one[0][1])
        begun.close()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_modelled_is_one_clear_line(loaded, monkeypatch) -> None:
    maps = np.full((1, 1, 70, 70), 2000, np.float32)
    for wrong in (maps[:, :, :60], -maps, maps * np.nan):
        with pytest.raises(UsageError, match=r"maps \(B, 1, 70, 70\) of positive velocities"):
            loaded.gathers(wrong)
    with pytest.raises(UsageError, match="must be wave or decoder"):
        loaded.sample(1, gathers="none")
    monkeypatch.setattr(loaded, "facts", {**loaded.facts, "acquisition": None})
    with pytest.raises(UsageError, match="gathers='decoder'"):
        loaded.sample(1)
    assert loaded.sample(1, gathers="decoder")[1].shape == (1, 5, 1000, 70)


def test_files_of_one_export_give_the_same_pairs_from_one_seed(with_onnx) -> None:
    """A random network wanders with every rounding; a step at a time it is held to 5 % elsewhere."""
    a, b = load(with_onnx.file(ONNX), 1), load(with_onnx.file(TORCHSCRIPT), 1)
    assert a.steps == b.steps == (4, 2)
    assert a.latent_length == b.latent_length
    assert a.facts == b.facts
    np.testing.assert_array_equal(a.noise(9, range(2), 4)[0], b.noise(9, range(2), 4)[0])
    latent = np.random.default_rng(0).uniform(-1, 1, (4, 1, a.latent_length)).astype(np.float32)
    for ours, theirs in zip(a.decode(latent), b.decode(latent), strict=True):
        assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


class Shrinking(SteppingGenerator):
    """A U-Net that predicts a tenth of its input."""

    def unet(self, x, time):
        return 0.1 * x

    def decode_normalised(self, latent):
        return latent, latent


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp2m"])
def test_the_loop_is_that_of_the_generator(solver: str) -> None:
    from tiny import tiny_model, tiny_recipe

    from ubq.config.schema import ExportConfig
    from ubq.export.lower.qdq import tables
    from ubq.quant.generator import deployable

    export = ExportConfig(solver=solver, steps=16 if solver == "ddpm" else 5)  # type: ignore[arg-type]
    generator = deployable(tiny_model("paper"), tiny_recipe("paper", export=export))
    ours = Shrinking({}, SamplerTables.from_json(tables(generator).to_json()))
    generator.unet.forward = lambda x, time: 0.1 * x  # type: ignore[method-assign]
    x_T, step_noise = ours.noise(0, range(2), ours.steps[0])
    with torch.no_grad():
        wanted = generator.sample(torch.from_numpy(x_T), torch.from_numpy(step_noise), 0)
    np.testing.assert_allclose(ours.sample_latents(x_T, step_noise), wanted.numpy(), rtol=1e-5, atol=1e-6)
    assert bool(step_noise.any()) == (solver == "ddpm")
    velocity, seismic = ours.decode(x_T)
    low, high = generator.velocity_middle - generator.velocity_half, generator.velocity_middle + generator.velocity_half
    np.testing.assert_allclose(velocity, low + (x_T + 1) / 2 * (high - low), rtol=1e-5)
    log = torch.from_numpy(x_T) * generator.log_half + generator.log_middle
    np.testing.assert_allclose(seismic, torch.sign(log) * torch.expm1(log.abs()), rtol=1e-5)


ALONE = """
import sys
from importlib.abc import MetaPathFinder
ALLOWED = {"numpy", "onnxruntime", "ubq"}
class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ALLOWED and top not in ("flatbuffers", "google"):
            raise ImportError(f"{name} is not installed on this machine")
sys.meta_path.insert(0, Bare())
from ubq.runtime import load
velocity, seismic = load(sys.argv[1]).sample(2, 0, 3)
try:
    load(sys.argv[1]).sample(1, 99)
except Exception as error:
    assert "99" in str(error), error
used = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(velocity.shape, seismic.shape, "torch" in used)
"""


def test_an_onnx_file_needs_numpy_and_onnxruntime_only(with_onnx, tmp_path) -> None:
    repository = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(with_onnx.file(ONNX))],
        cwd=tmp_path, env={"PATH": "/usr/bin", "PYTHONPATH": str(repository)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "(2, 1, 70, 70) (2, 5, 1000, 70) False"


def test_the_command_prints_what_came_out(with_onnx) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ubq.runtime", str(with_onnx.file(ONNX)), "--count", "2", "--steps", "2"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert seen["shapes"] == [[2, 1, 70, 70], [2, 5, 1000, 70]]
    assert seen["finite"]
    assert seen["seed_repeats"]
    assert not seen["torch_imported"]


def test_what_cannot_be_done_is_one_clear_line(loaded, with_onnx, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"does not offer 3 sampling steps \(it offers 2, 4;"):
        loaded.sample(1, 3)
    with pytest.raises(UsageError, match="0 pairs"):
        loaded.sample(0)
    with pytest.raises(UsageError, match="x_T has shape"):
        loaded.sample(np.zeros((1, loaded.latent_length), np.float32), None, 2)
    with pytest.raises(UsageError, match="is no exported model"):
        load(tmp_path / "x.bin")
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path / "x.onnx")
    for ending in (ONNX, TORCHSCRIPT):
        file = tmp_path / f"broken{ending}"
        file.write_bytes(b"not a model")
        with pytest.raises(UsageError, match="broken"):
            load(file)
    alone = tmp_path / "tiny.onnx"
    shutil.copy(with_onnx.file(ONNX), alone)
    with pytest.raises(UsageError, match=r"tiny\.decoders\.onnx does not exist"):
        load(alone)


def test_files_of_two_exports_are_not_mixed(with_onnx, tmp_path) -> None:
    shutil.copy(with_onnx.file(ONNX), tmp_path / "tiny.onnx")
    decoders = onnx.load(with_onnx.file(".decoders.onnx"))
    for entry in decoders.metadata_props:
        entry.value = "0" * 64
    onnx.save(decoders, tmp_path / "tiny.decoders.onnx")
    with pytest.raises(UsageError, match="are of different exports"):
        load(tmp_path / "tiny.onnx")
