"""``ubq data`` as a user meets it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import ubq.data.forward
from ubq.cli.data import app
from ubq.errors import EXIT_USAGE, UbqError

Writer = Callable[..., Path]


def ubq_data(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def problem(*arguments: str | Path) -> str:
    """The one line of a command that must fail because of its input."""
    result = ubq_data(*arguments)
    assert isinstance(result.exception, UbqError), result.output
    assert result.exception.exit_code == EXIT_USAGE
    text = str(result.exception)
    assert text
    assert "\n" not in text
    return text


def test_synth_forward_inspect_go_together(tmp_path: Path) -> None:
    pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")
    maps, shots = tmp_path / "maps", tmp_path / "shots"
    made = ubq_data("synth", "--family", "CurveFault_A", "--samples", "4", "--out", maps, "--seed", "9", "--json")
    assert made.exit_code == 0, made.output
    found = json.loads(made.stdout)
    assert (found["family"], found["train"], found["val"], found["seed"]) == ("curvefault-a", 3, 1, 9)
    assert [Path(f).name for f in found["files"]] == ["vel2_1_0.npy", "vel2_1_32.npy"]

    modelled = ubq_data("forward", "--velocity", maps, "--out", shots)
    assert modelled.exit_code == 0, modelled.output
    assert f"ubq run --train-data {shots} --train-label {maps}" in modelled.stdout

    report = json.loads(ubq_data("inspect", maps, "--seismic", shots, "--json").stdout)
    assert report["samples"] == 4
    assert report["seismic_shape"] == [5, 1000, 70]
    assert report["families"] == ["flatfault-a", "curvefault-a"]
    text = ubq_data("inspect", maps, "--seismic", shots).stdout
    assert "4 pairs in 4 files" in text
    assert "seis2_1_32.npy" in text
    assert "family: flatfault-a or curvefault-a" in text


def test_synth_can_model_the_seismic_at_once(tmp_path: Path) -> None:
    pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")
    out = tmp_path / "set"
    made = ubq_data("synth", "--family", "flatvel-b", "--samples", "2", "--out", out, "--seismic", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(ubq_data("inspect", out, "--json").stdout)["seismic_shape"] == [5, 1000, 70]


def test_warnings_go_to_stderr(tmp_path: Path, write_velocity: Writer) -> None:
    path = write_velocity(tmp_path / "model1.npy")
    np.save(path, np.load(path) * 2)
    result = ubq_data("inspect", tmp_path)
    assert result.exit_code == 0
    assert "warning: velocities 4000 to 6000 m/s lie outside" in result.stderr
    assert "warning: " not in result.stdout


def test_an_unknown_family_gets_a_suggestion(tmp_path: Path) -> None:
    assert "did you mean curvefault-a" in problem(
        "synth", "--family", "curvfault-a", "--samples", "4", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


def test_a_split_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    text = problem("synth", "--family", "style-a", "--samples", "4", "--val-samples", "4", "--out", tmp_path / "x")
    assert "leaves none for training" in text


def test_seismic_without_deepwave_fails_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ubq.data.forward, "missing_modules", lambda extra: ("deepwave",))
    text = problem("synth", "--family", "style-a", "--samples", "4", "--seismic", "--out", tmp_path / "x")
    assert "pip install 'ubq[physics]'" in text
    assert not (tmp_path / "x").exists()


def _missing(folder: Path) -> Path:
    return folder / "none"


def _empty(folder: Path) -> Path:
    return folder


def _foreign(folder: Path) -> Path:
    (folder / "notes.npy").write_bytes(b"")
    return folder


def _truncated(folder: Path) -> Path:
    np.save(folder / "model1.npy", np.full((2, 1, 70, 70), 2000, np.float32))
    (folder / "model1.npy").write_bytes((folder / "model1.npy").read_bytes()[:-4])
    return folder


def _objects(folder: Path) -> Path:
    np.save(folder / "model1.npy", np.array([{}], object), allow_pickle=True)
    return folder


def _wrong_shape(folder: Path) -> Path:
    np.save(folder / "model1.npy", np.full((2, 70, 70), 2000, np.float32))
    return folder


def _nan(folder: Path) -> Path:
    maps = np.full((2, 1, 70, 70), 2000, np.float32)
    maps[1, 0, 5, 5] = np.nan
    np.save(folder / "model1.npy", maps)
    return folder


def _no_partner(folder: Path) -> Path:
    np.save(folder / "model1.npy", np.full((1, 1, 70, 70), 2000, np.float32))
    for number in (1, 2):
        np.save(folder / f"data{number}.npy", np.zeros((1, 5, 1000, 70), np.float32))
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_missing, "none does not exist"),
        (_empty, "is empty"),
        (_foreign, "holds notes.npy, not named as OpenFWI names its velocity files"),
        (_truncated, "model1.npy is truncated"),
        (_objects, "model1.npy holds Python objects"),
        (_wrong_shape, "model1.npy has shape (2, 70, 70)"),
        (_nan, "model1.npy, sample 1: holds NaN"),
        (_no_partner, "data2.npy has no partner model2.npy"),
    ],
)
def test_bad_input_gives_one_line_and_nothing_is_written(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    folder = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert message in problem("inspect", folder)
    if make is not _no_partner:
        assert message in problem("forward", "--velocity", folder, "--out", tmp_path / "out")
    assert [p for p in sorted(tmp_path.rglob("*")) if "out" not in p.parts] == before
    assert not list((tmp_path / "out").glob("*.npy"))


_COMMAND = "import sys; from ubq.cli.data import app; app(sys.argv[1:])"


def test_an_interrupt_saves_and_exits_130(tmp_path: Path) -> None:
    pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")
    maps, out = tmp_path / "maps", tmp_path / "out"
    ubq_data("synth", "--family", "flatvel-a", "--samples", "500", "--out", maps)
    command = [sys.executable, "-c", _COMMAND, "forward", "--velocity", maps, "--out", out, "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob(".*.done")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 130
    assert "the same command goes on from here" in said
    assert not list(out.glob("*.npy"))


def test_looking_at_help_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from ubq.cli.data import app\n"
        "try: app(['forward', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'deepwave', 'textual', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
