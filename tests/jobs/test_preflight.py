"""What a run asks of the machine before it starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.config.schema import Config
from ubq.errors import EXIT_PREFLIGHT
from ubq.jobs.checks import preflight
from ubq.jobs.checks.check import Check
from ubq.jobs.checks.configuration import check_synthesis
from ubq.jobs.checks.machine import SPARE_BYTES, check_device, check_disk, check_memory
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.jobs.state import RunState, StageState, write_state
from ubq.jobs.status import snapshot
from ubq.stages.estimate import StageMemory, disk_needed
from ubq.stages.paths import RunPaths

GIGABYTE = 1_000_000_000
NEEDS = {
    "train-autoencoder": StageMemory(weights=1 * GIGABYTE, training=4 * GIGABYTE, activations=GIGABYTE // 2),
    "train-diffusion": StageMemory(weights=3 * GIGABYTE, training=12 * GIGABYTE, activations=2 * GIGABYTE),
}


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def free(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": count}))


def test_disk_for_checkpoints_final_weights_and_pairs(monkeypatch: pytest.MonkeyPatch, paths: RunPaths) -> None:
    config = Config.model_validate({"data": {"synth_samples": 1000}})
    # A checkpoint is weights, average and two moments: 12 GB of the second stage. Two are kept, one is being written;
    # of the first, which is complete by then, the weights are left.
    expected = 3 * 12 * GIGABYTE + 1 * GIGABYTE
    assert disk_needed(config, ["train-autoencoder", "train-diffusion"], NEEDS) == expected
    pairs = 1000 * 4 * (5 * 1000 * 70 + 70 * 70)
    assert disk_needed(config, ["prepare"], {}) == pairs
    free(monkeypatch, expected)
    check = check_disk(config, paths, [*NEEDS], NEEDS)
    assert check.failed
    assert "37.1 GB needed, 37.0 GB free" in check.figure
    assert "--runs-dir" in check.fix
    free(monkeypatch, expected + SPARE_BYTES)
    assert check_disk(config, paths, [*NEEDS], NEEDS).status == "ok"


def test_disk_for_what_import_and_export_write() -> None:
    needs = {
        "qat-decoders": StageMemory(weights=1 * GIGABYTE, training=4 * GIGABYTE, activations=0),
        "qat-diffusion": StageMemory(weights=3 * GIGABYTE, training=12 * GIGABYTE, activations=0),
    }
    assert disk_needed(Config(), ["import"], needs) == 4 * GIGABYTE
    assert disk_needed(Config(), ["export"], needs) == 5 * GIGABYTE
    assert disk_needed(Config(), ["qat-diffusion"], needs) == 3 * 12 * GIGABYTE
    # the last file, the whole generator, is written beside the one checkpoint of a stage that makes no second
    short = Config.model_validate({"run": {"checkpoint_minutes": 0}, "qat": {"steps": 2}})
    assert disk_needed(short, ["qat-diffusion"], needs) == (12 + 4) * GIGABYTE
    # decoders and generator as float weights, both again in the float reference, and int8
    assert disk_needed(short, ["qat-diffusion", "export"], needs) == (12 + 4) * GIGABYTE


def test_what_is_written_already_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch, paths: RunPaths) -> None:
    needs = {"train-autoencoder": StageMemory(weights=4000, training=16000, activations=0)}
    needed = disk_needed(Config(), [*needs], needs)
    free(monkeypatch, needed + SPARE_BYTES - 1000)
    assert check_disk(Config(), paths, [*needs], needs).failed
    folder = paths.checkpoints("train-autoencoder") / "step-5"
    folder.mkdir(parents=True)
    (folder / "state.pt").write_bytes(bytes(1000))
    assert check_disk(Config(), paths, [*needs], needs).status == "ok"


@pytest.mark.parametrize(
    ("on_gpu", "available", "status"),
    [(False, 18, "ok"), (False, 16, "failed"), (True, 18, "ok"), (True, 16, "warning"), (True, 10, "failed")],
)
def test_memory_of_the_hungriest_stage(
    monkeypatch: pytest.MonkeyPatch, on_gpu: bool, available: int, status: str
) -> None:
    monkeypatch.setattr("ubq.jobs.checks.machine.device_memory", lambda device: (on_gpu, available * GIGABYTE))
    monkeypatch.setattr("ubq.jobs.checks.machine.memory_available", lambda: 24 * GIGABYTE)
    (check,) = check_memory(Config(), NEEDS)
    assert check.status == status
    assert check.figure.startswith("train-diffusion needs 17.4 GB")
    assert ("12.0 GB are not written beside training" in check.figure) == (status == "ok" and not on_gpu)
    if available == 10:  # the weights and their training state alone take 15 GB
        assert check.apply == {}
        assert "use a smaller preset or a larger device" in check.fix
    elif status != "ok":
        assert check.apply == {"train.diffusion.accumulate": 2}
        assert "train.diffusion.accumulate=2" in check.fix


@pytest.mark.parametrize(
    ("setting", "available", "status"),
    [("auto", 18, "ok"), ("auto", 17, "ok"), ("off", 17, "failed"), ("on", 18, "ok")],
)
def test_activation_checkpointing_where_a_step_would_not_fit(
    monkeypatch: pytest.MonkeyPatch, setting: str, available: int, status: str
) -> None:
    needs = {"train-diffusion": replace(NEEDS["train-diffusion"], checkpointed=GIGABYTE)}
    config = Config.model_validate({"run": {"activation_checkpointing": setting}})
    monkeypatch.setattr("ubq.jobs.checks.machine.device_memory", lambda device: (False, available * GIGABYTE))
    (check,) = check_memory(config, needs)
    assert check.status == status
    saving = setting == "on" or (setting == "auto" and available == 17)
    assert ("needs 16.4 GB of memory with activation checkpointing" in check.figure) == saving


@pytest.mark.parametrize(
    ("shard", "available", "devices", "status"),
    [
        ("auto", 10, 1, "failed"),
        ("auto", 10, 4, "ok"),
        ("off", 10, 4, "failed"),
        ("auto", 18, 4, "ok"),
        ("on", 18, 2, "ok"),
    ],
)
def test_a_u_net_spread_over_devices_that_are_too_small_for_it(
    monkeypatch: pytest.MonkeyPatch, shard: str, available: int, devices: int, status: str
) -> None:
    needs = {"train-diffusion": replace(NEEDS["train-diffusion"], gathered=GIGABYTE)}
    config = Config.model_validate({"distributed": {"shard": shard}})
    monkeypatch.setattr("ubq.jobs.checks.machine.device_memory", lambda device: (True, available * GIGABYTE))
    monkeypatch.setattr("ubq.jobs.checks.machine.memory_available", lambda: 64 * GIGABYTE)
    (check,) = check_memory(config, needs, devices)
    assert check.status == status
    spread = devices > 1 and (shard == "on" or (shard == "auto" and available == 10))
    assert (f"spread over {devices} devices" in check.figure) == spread
    # of 15 GB of weights and training state a part, one gigabyte whole, two of activations, and the process
    assert f"needs {15 / devices + 1 + 2 + 0.4 if spread else 17.4:.1f} GB" in check.figure


def test_a_device_that_is_not_there(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_device("cpu").status == "ok"
    check = check_device("cuda:77")
    assert check.failed
    assert "--device cpu" in check.fix
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    paths.root.mkdir()
    paths.config.write_text("")
    assert "type ubq submit for ubq run" in check_device("cuda:77", paths).fix  # a refused start leaves no run
    write_state(paths.state, RunState("run", stages=[StageState("prepare", fingerprint={"seed": 0})]))
    resume = f"ubq resume {paths.root.name} --runs-dir {paths.root.parent} --set device=cpu"
    assert resume in check_device("cuda:77", paths).fix


def test_a_device_that_computes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a PyTorch that was built without kernels for the card: it is listed, and the first operator fails."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr("torch.ones", refuse)
    check = check_device("auto")
    assert check.failed
    assert "computes nothing: CUDA error: no kernel image is available" in check.figure
    assert "Compile" not in check.figure


def test_synthesis_without_the_physics_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ubq.config.extras.find_spec", lambda name: None)
    (check,) = check_synthesis(Config(), ["prepare"])
    assert check.failed
    assert check.fix == "pip install 'ubq[physics]'"
    assert check_synthesis(Config(), ["export"]) == []
    assert check_synthesis(Config.model_validate({"data": {"train_velocity": "maps"}}), ["prepare"]) == []


class Reads(toy.Autoencoder):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def inputs(self, config: Config) -> list[Path]:
        return [self.path]


def test_a_failed_check_ends_the_run_before_its_first_stage(
    tmp_path: Path, paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [Reads(tmp_path / "absent.npy"), *toy.stages()[1:]]

    def start(**more: Any) -> int:
        return start_run(toy.toy_config(epochs=2), paths, stages=stages, console=QuietConsole(), **more)

    assert start() == EXIT_PREFLIGHT
    shown = capsys.readouterr().err
    assert shown.splitlines()[0] == f"error: {tmp_path}/absent.npy does not exist"
    assert "resume" not in shown
    assert not paths.root.exists(), "a start that is refused leaves no run behind"
    paths.root.mkdir()
    (paths.root / "mine.txt").touch()
    assert start() == EXIT_PREFLIGHT
    assert [p.name for p in paths.root.iterdir()] == ["mine.txt"]

    assert start_run(toy.toy_config(epochs=1), paths, stages=toy.stages()[:1], console=QuietConsole()) == 0
    assert start() == EXIT_PREFLIGHT
    shot = snapshot(paths.root)
    assert (shot.shown, shot.state.exit_code) == ("failed", EXIT_PREFLIGHT)
    assert [c["status"] for c in shot.state.preflight if c["id"] == "data"] == ["failed"]
    assert [s.state for s in shot.state.stages][1:] == ["pending"] * (len(stages) - 1)
    assert start(preflight=False) == 0


def test_a_warning_does_not_stop_a_run(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(config: Config, paths: RunPaths, todo: Any) -> list[Check]:
        return [Check(id="memory", status="warning", figure="tight", fix="make it smaller")]

    monkeypatch.setattr(preflight, "check_run", warn)
    assert start_run(toy.toy_config(epochs=2), paths, stages=toy.stages(), console=QuietConsole()) == 0
    assert "warning: tight. make it smaller." in paths.log.read_text()
    recorded: Mapping[str, str] = snapshot(paths.root).state.preflight[0]
    assert recorded["figure"] == "tight"
