"""Forward modelling against physics, and the files it writes against interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

import ubq.data.forward
from ubq.acquisition import SOURCES, WAVELET_PEAK
from ubq.config.schema import DataConfig
from ubq.data.families import FAMILIES
from ubq.data.forward import forward_files, forward_model
from ubq.data.pairs import open_pairs
from ubq.data.synthetic import synthesise_velocity, write_synthetic
from ubq.errors import DataError, HeldError, PreflightError, UsageError

pytest.importorskip("deepwave", reason="forward modelling needs the physics extra")


def constant(velocity: float) -> np.ndarray:
    return np.full((1, 70, 70), velocity, np.float32)


@pytest.fixture(scope="module")
def fault_map() -> np.ndarray:
    return synthesise_velocity("curvefault-a", 1, seed=4)[0]


@pytest.fixture(scope="module")
def gather(fault_map: np.ndarray) -> np.ndarray:
    return forward_model(fault_map)


@pytest.mark.parametrize("velocity", [1500.0, 3000.0])
def test_the_direct_wave_travels_at_the_velocity_of_the_map(velocity: float) -> None:
    shot = forward_model(constant(velocity))[0]
    peaks = shot.argmax(axis=0)
    near, far = 20, 65
    assert peaks[far] - peaks[near] == pytest.approx((far - near) * 10 / velocity * 1000, abs=2)
    # A two-dimensional wave drags a tail, so its peak comes up to a quarter period after the wavelet's.
    delay = peaks[near] - (WAVELET_PEAK + near * 10 / velocity) * 1000
    assert 0 <= delay < 1000 / 15 / 4


def test_nothing_arrives_before_the_wave(gather: np.ndarray, fault_map: np.ndarray) -> None:
    fastest = fault_map.max()
    for shot, source in zip(gather, SOURCES, strict=True):
        for receiver in (0, 69):
            first = int(abs(receiver - source) * 10 / fastest * 1000)
            assert np.abs(shot[:first, receiver]).max(initial=0) < 2e-3 * np.abs(shot[:, receiver]).max()


def test_amplitudes_lie_in_openfwi_ranges() -> None:
    # The largest amplitude is that next to the source, which depends on the velocity there alone.
    slow, fast = forward_model(constant(1500.0)), forward_model(constant(4500.0))
    published = [facts.amplitude for facts in FAMILIES.values()]
    assert np.mean([low for low, _high in published]) == pytest.approx(fast.min(), rel=0.1)
    assert np.mean([high for _low, high in published]) == pytest.approx(fast.max(), rel=0.1)
    assert fast.max() > slow.max() > 30


def test_mirrored_maps_give_mirrored_gathers(gather: np.ndarray, fault_map: np.ndarray) -> None:
    mirrored = forward_model(np.ascontiguousarray(fault_map[:, :, ::-1]))
    for left, right in ((0, 4), (1, 3), (2, 2)):
        if SOURCES[left] + SOURCES[right] == 69:
            np.testing.assert_allclose(mirrored[left], gather[right][:, ::-1], atol=2e-3)
    assert SOURCES[0] + SOURCES[4] == SOURCES[1] + SOURCES[3] == 69


def test_source_and_receiver_can_change_places(gather: np.ndarray) -> None:
    for a in range(5):
        for b in range(a):
            np.testing.assert_allclose(gather[a, :, SOURCES[b]], gather[b, :, SOURCES[a]], atol=2e-4)


def test_reflections_come_back_when_they_should() -> None:
    layered = constant(2000.0)
    layered[:, 40:] = 3500.0
    echo = (forward_model(layered) - forward_model(constant(2000.0)))[2, :, SOURCES[2]]
    # Down to the interface and back, between cells 39 and 40; the map is one cell above the source.
    assert np.abs(echo).argmax() == pytest.approx((WAVELET_PEAK + 2 * (39.5 - 1) * 10 / 2000) * 1000, abs=10)
    assert np.abs(echo[: int(2 * 38 * 10 / 2000 * 1000)]).max() < 0.01 * np.abs(echo).max()


def test_edges_absorb() -> None:
    shot = forward_model(constant(3000.0))[2]
    # The direct wave has left 0.6 s after it started; a reflecting edge would send it back.
    assert np.abs(shot[700:]).max() < 5e-3 * np.abs(shot).max()


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """Three training maps and one held-out, OpenFWI's layout of a Vel set."""
    write_synthetic("flatvel-a", 3, 1, seed=0, out=tmp_path / "set")
    return tmp_path / "set"


def test_the_result_trains_as_it_is(maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "seismic"
    shown: list[tuple[int, int]] = []
    assert forward_files(maps, out, progress=lambda done, total: shown.append((done, total)))
    assert shown[0] == (0, 4)
    assert shown[-1] == (4, 4)
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == [
        "data1.npy",
        "data49.npy",
        "forward.json",
    ]
    data = DataConfig(family="flatvel-a", train_seismic=str(out), train_velocity=str(maps))
    split = open_pairs(data, seed=0)
    for side in (split.train, split.val):
        for i in range(len(side)):
            np.testing.assert_array_equal(side.seismic(i).numpy(), forward_model(side.velocity(i).numpy()))


def test_a_data_set_s_own_root_keeps_its_subfolders(maps: Path) -> None:
    assert forward_files(maps, maps)
    assert sorted(p.relative_to(maps).as_posix() for p in maps.rglob("*.npy")) == [
        "data/data1.npy",
        "data/data49.npy",
        "model/model1.npy",
        "model/model49.npy",
    ]
    data = DataConfig(family="flatvel-a", train_seismic=str(maps), train_velocity=str(maps))
    assert len(open_pairs(data, seed=0).train) == 3


def count_models(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the maps that are modelled from now on, in this process."""
    calls: list[int] = []
    real = ubq.data.forward.forward_model

    def counted(velocity: np.ndarray) -> np.ndarray:
        calls.append(1)
        return real(velocity)

    monkeypatch.setattr(ubq.data.forward, "forward_model", counted)
    return calls


def test_stopping_loses_nothing_and_complete_files_are_left_alone(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, out = count_models(monkeypatch), tmp_path / "seismic"
    assert not forward_files(maps, out, should_stop=lambda: len(calls) == 2)
    assert len(calls) == 2
    assert not list(out.glob("*.npy")), "a file that is not whole has no final name"
    assert forward_files(maps, out)
    assert len(calls) == 4
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*.npy")}
    assert forward_files(maps, out)
    assert len(calls) == 4
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.npy")} == stamps
    assert not list(out.glob(".*.partial"))
    assert not list(out.glob(".*.done"))


_KILLED = """
import os, signal, sys
from pathlib import Path
import ubq.data.forward
from ubq.acquisition import SOURCES, WAVELET_PEAK
ubq.data.forward._FLUSH_SECONDS = 0.0
def kill(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
ubq.data.forward.forward_files(Path(sys.argv[1]), Path(sys.argv[2]), workers=1, progress=kill)
"""


def test_a_killed_run_goes_on_and_gives_the_same_files(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    forward_files(maps, whole)
    done = subprocess.run([sys.executable, "-c", _KILLED, str(maps), str(killed)], check=False)
    assert done.returncode == -signal.SIGKILL
    calls = count_models(monkeypatch)
    assert forward_files(maps, killed)
    assert 2 <= len(calls) <= 3
    for name in ("data1.npy", "data49.npy"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_other_maps_of_the_same_name_are_modelled_again(maps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward_files(maps, maps)
    changed = np.load(maps / "model" / "model1.npy")
    changed[1] += 100
    np.save(maps / "model" / "model1.npy", changed.clip(1500, 4500))
    calls = count_models(monkeypatch)
    assert forward_files(maps, maps)
    assert len(calls) == 3, "model49.npy has not changed"
    np.testing.assert_array_equal(
        np.load(maps / "data" / "data1.npy")[1], forward_model(np.load(maps / "model" / "model1.npy")[1])
    )


def test_seismic_that_ubq_did_not_make_is_kept(maps: Path, write_seismic: Callable[..., Path]) -> None:
    own = write_seismic(maps / "data" / "data1.npy", 3)
    content = own.read_bytes()
    assert forward_files(maps, maps)
    assert own.read_bytes() == content
    write_seismic(own, 2)
    with pytest.raises(DataError, match=r"data1.npy has 2 samples, but .*model1.npy has 3"):
        forward_files(maps, maps)


@pytest.mark.slow
def test_several_processes_give_the_same_files(tmp_path: Path) -> None:
    maps = tmp_path / "set"
    write_synthetic("flatfault-a", 17, 1, seed=0, out=maps)
    environment = dict(os.environ)
    assert forward_files(maps, tmp_path / "two", workers=2)
    assert dict(os.environ) == environment
    data = DataConfig(
        family="flatfault-a", train_seismic=str(tmp_path / "two"), train_velocity=str(maps), min_val_samples=1
    )
    train = open_pairs(data, seed=0).train
    for i in (0, 9, 16):
        np.testing.assert_array_equal(train.seismic(i).numpy(), forward_model(train.velocity(i).numpy()))


def test_workers_stop_on_request_and_go_on(tmp_path: Path) -> None:
    maps, out = tmp_path / "set", tmp_path / "out"
    write_synthetic("flatfault-a", 23, 1, seed=0, out=maps)
    stop = threading.Event()
    seen: list[int] = []

    def watch(done: int, total: int) -> None:
        seen.append(done)
        if done >= 3:
            stop.set()

    assert not forward_files(maps, out, workers=2, progress=watch, should_stop=stop.is_set)
    stopped_at, seen = seen[-1], []
    assert 3 <= stopped_at < 24
    assert forward_files(maps, out, workers=1, progress=lambda done, total: seen.append(done))
    assert seen[0] == stopped_at
    assert seen[-1] == 24
    by_worker, velocity = np.load(out / "seis2_1_0.npy", mmap_mode="r"), np.load(maps / "vel2_1_0.npy")
    np.testing.assert_array_equal(by_worker[0], forward_model(velocity[0]))


def test_bad_maps_stop_it_before_anything_is_modelled(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, out = count_models(monkeypatch), tmp_path / "out"
    path = maps / "model" / "model49.npy"
    bad = np.load(path)
    bad[0, 0, 3, 3] = np.nan
    np.save(path, bad)
    with pytest.raises(DataError, match=r"model49.npy, sample 0: holds NaN"):
        forward_files(maps, out)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"model49.npy is truncated"):
        forward_files(maps, out)
    with pytest.raises(DataError, match="does not exist"):
        forward_files(maps / "none", out)
    np.save(tmp_path / "mine.npy", np.full((1, 1, 70, 70), 2000, np.float32))
    with pytest.raises(DataError, match=r"mine.npy is not named as OpenFWI.*rename it"):
        forward_files(tmp_path / "mine.npy", out)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        forward_files(tmp_path / "set" / "model" / "model1.npy", tmp_path / "file" / "out")
    assert not calls
    assert not list(out.glob("*.npy"))


def test_too_little_disk_is_found_first(maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_models(monkeypatch)
    usage = type("Usage", (), {"free": 4_000_000})
    monkeypatch.setattr(ubq.data.forward.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(PreflightError, match=r"0.0 GB free"):
        forward_files(maps, tmp_path / "out")
    assert not calls
    assert not list((tmp_path / "out").glob(".*partial"))


def test_two_processes_do_not_share_a_folder(maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".forward.lock"), pytest.raises(HeldError, match="another process"):
        forward_files(maps, out)


def test_without_deepwave_one_line_says_what_to_install(
    maps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ubq.data.forward, "missing_modules", lambda extra: ("deepwave",))
    with pytest.raises(UsageError, match=r"needs deepwave.*pip install 'ubq\[physics\]'"):
        forward_files(maps, tmp_path / "out")
    assert not (tmp_path / "out").exists()
