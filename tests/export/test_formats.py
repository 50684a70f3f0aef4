"""Choosing formats, and holding the further files to what the TorchScript file is held to."""

from __future__ import annotations

import numpy as np
import pytest

from ubq.cli import main
from ubq.config import extras
from ubq.errors import UsageError
from ubq.export.formats import loadable_files, require_formats
from ubq.runtime import load
from ubq.verify import marks
from ubq.verify.child import examine

SHAPES = ((1, 70, 70), (5, 1000, 70))
LIMITS = (1200.0, 4800.0)


def test_a_further_file_that_works_has_no_problems(with_onnx) -> None:
    (file,) = loadable_files(with_onnx.files.model, ("torchscript", "onnx"))
    seen = examine(file, SHAPES, LIMITS, threads=1)
    assert seen["problems"] == []
    assert seen["shapes"] == [[2, 1, 70, 70], [2, 5, 1000, 70]]
    assert seen["seconds_per_pair"] > 0
    info = with_onnx.files.model.with_name("tiny_info.txt").read_text()
    assert "other runtimes: tiny.onnx, tiny.decoders.onnx\n" in info
    (shape, speed) = examine(file, ((1, 70, 71), SHAPES[1]), (0.0, 100.0), threads=1)["problems"]
    assert "tiny.onnx: shapes" in shape
    assert "m/s" in speed


def test_a_further_file_that_draws_other_pairs_has_that_problem(with_onnx, tmp_path) -> None:
    model = load(with_onnx.files.model, threads=1)
    (file,) = loadable_files(with_onnx.files.model, ("torchscript", "onnx"))
    x_T = np.random.default_rng(0).standard_normal((3, 1, model.latent_length), np.float32)
    step_noise = np.zeros((model.steps[0] - 1, *x_T.shape), np.float32)
    latent = model.sample_latents(x_T, step_noise)
    velocity, seismic = model.decode(latent)
    pairs = {"x_T": x_T, "step_noise": step_noise, "latent": latent, "velocity": velocity, "seismic": seismic}
    for name, changed in (("latent", -latent), ("velocity", 6000 - velocity), ("seismic", -seismic)):
        np.savez(tmp_path / "pairs.npz", **pairs)
        seen = examine(file, SHAPES, LIMITS, threads=1, against=tmp_path / "pairs.npz")
        assert seen["problems"] == []
        assert set(seen["apart"]) == {"latent", "velocity", "seismic"}
        assert max(seen["apart"].values()) < 0.05
        np.savez(tmp_path / "pairs.npz", **(pairs | {name: changed}))
        problems = examine(file, SHAPES, LIMITS, threads=1, against=tmp_path / "pairs.npz")["problems"]
        assert any(problem.startswith(f"tiny.onnx: its {name} is ") for problem in problems)


def test_a_further_file_that_does_not_load_says_why(with_onnx, tmp_path) -> None:
    file = tmp_path / "tiny.onnx"
    file.write_bytes(with_onnx.file(".onnx").read_bytes())
    (problem,) = examine(file, SHAPES, LIMITS)["problems"]
    assert problem.startswith("tiny.onnx: ")
    assert "tiny.decoders.onnx does not exist" in problem


def test_the_generation_mark_needs_the_further_files_too() -> None:
    checks = dict.fromkeys(marks.GENERATION_CHECKS, True)
    assert marks.generation({**checks, "tiny.onnx": True}).passed
    failed = marks.generation({**checks, "tiny.onnx": False}, ["tiny.onnx: why"])
    assert not failed.passed
    assert "tiny.onnx: why" in failed.how


def test_a_format_without_its_packages_says_what_to_install(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setitem(extras.EXTRAS, "onnx", ("no_such_module",))
    with pytest.raises(UsageError, match=r"not installed here: no_such_module \(pip install 'ubq\[onnx\]'\)"):
        require_formats(["torchscript", "onnx"])
    assert main(["export", str(tmp_path / "absent.pt"), "--format", "onnx"]) == 2
    error = capsys.readouterr().err
    assert "no_such_module" in error, "before anything has run: the checkpoint is not looked for"
    assert "pip install 'ubq[onnx]'" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--format", "tpu"], "no such format"), (["--format", "onnx", "--no-quantize"], "TorchScript only")],
)
def test_formats_that_make_no_sense_are_refused(arguments, said, tmp_path, capsys) -> None:
    assert main(["export", str(tmp_path / "x.pt"), *arguments]) == 2
    assert said in capsys.readouterr().err
