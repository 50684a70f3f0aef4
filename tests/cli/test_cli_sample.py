"""``ubq sample`` on a small exported file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_generator import tiny_generator, tiny_recipe

from ubq.cli import main
from ubq.data import writing
from ubq.data.pairs import open_files
from ubq.export.files import ExportedFiles, export_generator
from ubq.runtime import load


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedFiles:
    """A run's folder with an exported model of a fault family."""
    run = tmp_path_factory.mktemp("runs") / "trial"
    (run / "exported_models").mkdir(parents=True)
    (run / "config.toml").write_text("")
    recipe = tiny_recipe(solver="ddpm")
    return export_generator(tiny_generator(recipe), recipe, run / "exported_models", "tiny", family="flatfault-a")


def test_pairs_lie_as_openfwi_lays_them_out(exported: ExportedFiles, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["sample", str(exported.model), "--count", "3", "--seed", "7", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    velocity, seismic = np.load(out / "vel2_1_0.npy"), np.load(out / "seis2_1_0.npy")
    assert velocity.shape == (3, 1, 70, 70)
    assert seismic.shape == (3, 5, 1000, 70)
    assert velocity.dtype == seismic.dtype == np.float32
    assert not np.array_equal(velocity[0], velocity[1])
    assert result["files"] == [str(out / "vel2_1_0.npy"), str(out / "seis2_1_0.npy")]
    assert (result["steps"], result["solver"], result["count"]) == (4, "ddpm", 3)
    assert (out / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob(".*"))
    assert len(open_files(out, "", need_seismic=True)) == 1  # ubq run reads it back


def test_the_gathers_are_the_wave_equations_unless_the_decoders_are_asked_for(
    exported: ExportedFiles, tmp_path: Path, capsys
) -> None:
    pairs = {}
    for name in ("wave", "decoder"):
        options = ["--count", "1", "--gathers", name, "--out", str(tmp_path / name), "--json"]
        assert main(["sample", str(exported.model), *options]) == 0
        told = json.loads(capsys.readouterr().out)
        assert json.loads((tmp_path / name / "samples.json").read_text()) == told
        assert told["gathers"] == name
        assert (told["acquisition"] is None) == (name == "decoder")
        pairs[name] = [np.load(tmp_path / name / f"{kind}2_1_0.npy") for kind in ("vel", "seis")]
    assert np.array_equal(pairs["wave"][0], pairs["decoder"][0])
    with torch.no_grad():
        modelled = torch.jit.load(str(exported.model)).gathers(torch.from_numpy(pairs["wave"][0])).numpy()
    assert np.array_equal(pairs["wave"][1], modelled)
    assert not np.allclose(pairs["wave"][1], pairs["decoder"][1], atol=0.1)


def test_the_seed_repeats_and_more_pairs_keep_the_first(exported: ExportedFiles, tmp_path: Path) -> None:
    for name, count, seed in (("a", 2, 3), ("b", 2, 3), ("c", 4, 3), ("d", 2, 4)):
        arguments = ["--count", str(count), "--seed", str(seed), "--batch", "2", "--out", str(tmp_path / name)]
        arguments += ["--gathers", "decoder"]  # quicker
        assert main(["sample", str(exported.model), *arguments]) == 0
    a, b, c, d = (np.load(tmp_path / name / "vel2_1_0.npy") for name in "abcd")
    assert np.array_equal(a, b)
    assert np.array_equal(a, c[:2])
    assert not np.array_equal(a, d)


def test_files_split_at_500_and_are_named_by_family(exported: ExportedFiles, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SAMPLES_PER_FILE", 2)
    seen: list[tuple[int, int]] = []
    files = writing.write_pairs(load(exported.model), tmp_path, 5, 4, 0, 2, "decoder", lambda *x: seen.append(x))
    assert [f.name for f in files] == ["vel2_1_0.npy", "seis2_1_0.npy", "vel2_1_1.npy", "seis2_1_1.npy",
                                       "vel2_1_2.npy", "seis2_1_2.npy"]  # fmt: skip
    assert [len(np.load(f)) for f in files[::2]] == [2, 2, 1]
    assert seen == [(n, 5) for n in range(1, 6)]
    assert [i.relative_path("velocity") for i in writing.file_ids("curvevel-a", 3)] == [
        "model/model1.npy",
        "model/model2.npy",
    ]


def test_parts_are_together_what_one_call_draws(exported: ExportedFiles, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(writing, "SAMPLES_PER_FILE", 2)
    asked = ["sample", str(exported.model), "--count", "5", "--seed", "3", "--gathers", "decoder"]

    def pairs(name: str) -> dict[str, bytes]:
        return {f.name: f.read_bytes() for f in (tmp_path / name).iterdir() if f.suffix in (".npy", ".png")}

    assert main([*asked, "--batch", "2", "--out", str(tmp_path / "whole")]) == 0
    for part, batch in (("2/2", "1"), ("1/2", "2")):
        assert main([*asked, "--batch", batch, "--shard", part, "--out", str(tmp_path / "parts")]) == 0
    assert pairs("parts") == pairs("whole")

    one = tmp_path / "parts" / "vel2_1_1.npy"
    one.unlink()
    untouched = (tmp_path / "parts" / "vel2_1_0.npy").stat().st_mtime_ns
    for part in ("1/2", "2/2"):  # a part that was cut short goes on
        assert main([*asked, "--shard", part, "--out", str(tmp_path / "parts")]) == 0
    assert pairs("parts") == pairs("whole")
    assert (tmp_path / "parts" / "vel2_1_0.npy").stat().st_mtime_ns == untouched
    capsys.readouterr()
    assert main([*asked, "--seed", "4", "--shard", "1/2", "--out", str(tmp_path / "parts")]) == 2
    assert "holds other pairs" in capsys.readouterr().err


def test_a_run_is_sampled_by_name(exported: ExportedFiles, tmp_path: Path) -> None:
    runs = exported.model.parents[2]
    assert main(["sample", "trial", "--runs-dir", str(runs), "--count", "1", "--out", str(tmp_path / "o")]) == 0
    assert (tmp_path / "o" / "vel2_1_0.npy").is_file()


def test_one_clear_line_for_what_cannot_be(exported: ExportedFiles, tmp_path: Path, capsys) -> None:
    (tmp_path / "junk.pt").write_bytes(b"junk")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "other.pt"))
    out = ["--out", str(tmp_path / "o")]
    for arguments, words in (
        ([str(tmp_path / "missing.pt")], "does not exist"),
        ([str(tmp_path / "junk.pt")], "not a model that ubq exported"),
        ([str(tmp_path / "other.pt")], "not a model that ubq exported"),
        ([str(exported.model), "--steps", "3"], "does not offer 3"),
        ([str(exported.model), "--backend", "tpu"], "no quantised engine tpu"),
        ([str(exported.model), "--count", "999999"], "48000 pairs"),
        (["nothing", "--runs-dir", str(tmp_path)], "no run nothing"),
    ):
        assert main(["sample", *arguments, *out]) == 2
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""
    assert not (tmp_path / "o").exists()
    assert main(["sample", str(exported.model), "--count", "1", *out]) == 0
    assert main(["sample", str(exported.model), "--count", "1", *out]) == 2
    assert "exists" in capsys.readouterr().err


def test_help_and_usage_errors_import_no_torch() -> None:
    code = "import sys, ubq.cli.sample, ubq.cli.export; assert not {'torch', 'numpy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
