"""``--shard``: the parts of a work are together what one call makes, to the byte."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ubq.cli.data import app
from ubq.data import synthetic
from ubq.data.shard import Shard
from ubq.data.synthetic import write_synthetic
from ubq.errors import UsageError


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but locks."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.suffix != ".lock")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_are_disjoint_and_together_the_whole(count: int) -> None:
    parts = [Shard.parse(f"{i}/{count}").of(range(5)) for i in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(5))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Shard.parse("").of(range(5)) == list(range(5))


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="no part of a whole") as caught:
        Shard.parse(text)
    assert "1/8" in caught.value.fix


def test_maps_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "SAMPLES_PER_FILE", 2)
    write_synthetic("flatvel-a", 7, 3, 5, tmp_path / "whole")
    parts = [Shard(i, 3) for i in (1, 2, 3)]
    with ThreadPoolExecutor(3) as together:
        list(together.map(lambda part: write_synthetic("flatvel-a", 7, 3, 5, tmp_path / "parts", shard=part), parts))
    assert len(content(tmp_path / "whole")) == 7  # six files and the manifest
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_gathers_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")
    monkeypatch.setattr(synthetic, "SAMPLES_PER_FILE", 1)
    maps = tmp_path / "maps"
    write_synthetic("flatfault-a", 3, 1, 0, maps)

    def forward(out: str, *more: str) -> None:
        done = CliRunner().invoke(app, ["forward", "--velocity", str(maps), "--out", str(tmp_path / out), *more])
        assert done.exit_code == 0, done.output

    forward("whole")
    for part in ("3/3", "1/3", "2/3"):
        forward("parts", "--shard", part)
    assert len(content(tmp_path / "whole")) == 5
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    forward("idle", "--shard", "5/5")  # more parts than files: nothing to do is no failure


def test_the_seismic_of_one_part_of_the_maps_is_refused(tmp_path: Path) -> None:
    options = ["--family", "style-a", "--samples", "4", "--out", str(tmp_path / "x"), "--seismic", "--shard", "1/2"]
    done = CliRunner().invoke(app, ["synth", *options])
    assert isinstance(done.exception, UsageError)
    assert f"ubq data forward --velocity {tmp_path / 'x'} --out {tmp_path / 'x'} --shard 1/2" in done.exception.fix
    assert not (tmp_path / "x").exists()
