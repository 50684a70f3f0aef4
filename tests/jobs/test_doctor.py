"""The troubleshooting checklist: what it finds, and that what it proposes is a valid configuration."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from ubq.cli.doctor import doctor
from ubq.config.load import load_config, write_frozen
from ubq.config.schema import Config
from ubq.jobs.checks import doctor as examination
from ubq.jobs.checks.check import Check, worst
from ubq.jobs.fixes import MARKS, fix_of, out_of_memory
from ubq.jobs.owner import boot_id, this_process
from ubq.jobs.state import RUNNING, RunState, StageState, write_state
from ubq.stages.estimate import memory_of
from ubq.stages.settings import TABLES

STATUSES = {"ok", "warning", "failed"}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("UBQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config() -> Config:
    return load_config("smoke", {"data.train_velocity": "maps"}, isolated=True).config


def make_run(config: Config, name: str = "r", **state: object) -> Path:
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(write_frozen(config))
    write_state(folder / "state.json", RunState(run=name, created="2026-01-01T00:00:00Z", **state))  # type: ignore[arg-type]
    return folder


def make_maps(config: Config) -> None:
    folder = Path(config.data.train_velocity)
    folder.mkdir()
    for number in range(2):
        np.save(folder / f"vel2_1_{number}.npy", np.full((4, 1, 70, 70), 2000, np.float32))
        np.save(folder / f"seis2_1_{number}.npy", np.zeros((4, 5, 1000, 70), np.float32))


def found(config: Config | None, run: Path | None = None) -> dict[str, Check]:
    return {c.id: c for c in examination.examine(config, run)}


def run_doctor(*arguments: str) -> tuple[int, dict[str, Check]]:
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    parsed = json.loads(result.stdout)
    checks = [Check(**c) for c in parsed["checks"]]
    assert parsed["status"] == worst(checks)
    return result.exit_code, {c.id: c for c in checks}


def owner_file(run: Path, **changes: object) -> None:
    owner = dataclasses.replace(this_process(), **changes)  # type: ignore[arg-type]
    (run / "owner.json").write_text(json.dumps(dataclasses.asdict(owner)))


def test_the_machine_alone() -> None:
    code, checks = run_doctor()
    areas = {i.partition(".")[2] for i in checks}
    assert areas >= {
        "python",
        "packages",
        "extras",
        "engines",
        "threads",
        "cuda",
        "disk",
        "memory",
        "terminal",
        "locale",
    }
    assert all(c.status in STATUSES and c.figure for c in checks.values())
    assert all(c.fix for c in checks.values() if c.status == "failed")
    assert code == (3 if worst(checks.values()) == "failed" else 0)


def test_a_configuration_with_mistakes_names_each_and_exits_3() -> None:
    Path("bad.toml").write_text('extends = "smoke"\nseed = -1\n[qat]\nepoch = 3\n')
    code, checks = run_doctor("bad.toml")
    assert code == 3
    assert checks["parameters.seed"].status == "failed"
    assert "qat.epochs" in checks["parameters.qat.epoch"].fix


def test_missing_data_fails_and_pairs_are_counted(config: Config) -> None:
    assert found(config)["data.readable"].status == "failed"
    make_maps(config)
    checks = found(config)
    assert checks["data.files"].status == "ok"
    assert "4 training and 4 held-out" in checks["data.files"].figure
    wrong = config.model_copy(update={"data": config.data.model_copy(update={"family": "style-a"})})
    assert found(wrong)["data.family"].apply["data.family"] in ("flatfault-a", "curvefault-a")


def test_engine_extras_and_checkpoint(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from ubq.config import extras

    class Quantized:
        supported_engines = ("none", "x86")

    monkeypatch.setattr(torch.backends, "quantized", Quantized)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    Path("not.pt").write_text("no checkpoint")
    config = load_config("smoke", {"pretrained.path": "gone.pt"}, isolated=True).config
    checks = found(config)
    assert checks["environment.engines"].apply == {"quant.backend": "x86"}
    monkeypatch.setattr("ubq.runtime.processor.adds_in_32_bits", lambda: False)
    clipped = found(load_config("smoke", {"quant.backend": "x86"}, isolated=True).config)["environment.engines"]
    assert clipped.status == "warning"
    assert "VNNI" in clipped.why
    assert checks["checkpoint.path"].status == "failed"
    synthetic = load_config("smoke", isolated=True).config
    assert "ubq[physics]" in found(synthetic)["environment.extras"].fix
    config = load_config("smoke", {"pretrained.path": "not.pt"}, isolated=True).config
    assert found(config)["checkpoint.path"].status == "failed"


def test_a_checkpoint_that_imports_and_one_with_a_hole() -> None:
    import torch

    from ubq.model import GaussianDiffusion, ModelSizes, UBDiff
    from ubq.upstream.names import upstream_names

    overrides = {"model.variant": "fork", "pretrained.path": "model.pt", "data.normalization": "openfwi"}
    config = load_config("smoke", overrides, isolated=True).config
    sizes = ModelSizes.from_dict(config.model.model_dump())
    ours = UBDiff(sizes).state_dict()
    names = upstream_names("fork", len(sizes.dim_mults), sizes.seismic_depth)
    state = {theirs: ours[name] for name, all_names in names.items() if name in ours for theirs in all_names}
    betas = GaussianDiffusion(sizes.diffusion_steps, sizes.objective).betas
    torch.save({"step": 3, "model": {**state, "diffusion.betas": betas}}, "model.pt")
    checks = found(config)
    assert "fork" in checks["checkpoint.path"].figure, checks["checkpoint.path"]
    assert checks["checkpoint.normalization"].apply == {"data.normalization": "fork"}
    state.pop(next(n for n in state if n.startswith("dual_decoder.") and n.endswith("weight")))
    torch.save({"step": 3, "model": state}, "model.pt")
    assert found(config)["checkpoint.path"].status == "failed"


@pytest.mark.parametrize("stage", TABLES)
def test_a_killed_run_is_recognised_and_gets_smaller_parts(config: Config, stage: str) -> None:
    run = make_run(config, state=RUNNING, stages=[StageState(stage, RUNNING, step=7, steps=9)])
    owner_file(run, pid=2**22 + 1, start="0")
    check = found(config, run)["run.memory"]
    assert check.status == "failed"
    assert f"{stage} at step 7" in check.figure
    assert check.apply == {f"{TABLES[stage]}.accumulate": 2}
    assert f"--set {TABLES[stage]}.accumulate=2" in check.fix
    assert "ubq resume r --set" in check.fix


def test_a_restarted_machine_is_not_taken_for_a_kill(config: Config) -> None:
    run = make_run(config, state=RUNNING, next_command="ubq resume r", stages=[StageState("prepare", RUNNING)])
    owner_file(run, boot="another boot")
    checks = found(config, run)
    assert "run.memory" not in checks
    assert checks["run.state"].fix == "ubq resume r"


def test_a_living_run_is_no_failure(config: Config) -> None:
    run = make_run(config, state=RUNNING, stages=[StageState("prepare", RUNNING)])
    owner_file(run)
    assert this_process().boot == boot_id()
    assert this_process().host == socket.gethostname()
    assert found(config, run)["run.state"].status == "ok"


def test_out_of_memory_that_was_caught_and_that_was_not(config: Config) -> None:
    run = make_run(
        config,
        state="failed",
        error={"stage": "train-seismic", "message": "out of memory: 9 GB", "fix": "", "cause": "memory"},
        stages=[StageState("train-seismic", "failed")],
    )
    (run / "events.jsonl").write_text(
        '{"event": "out_of_memory", "stage": "train-seismic", "step": 3, "accumulate": 4}\n{"event": "out_of_mem'
    )
    checks = found(config, run)
    assert checks["run.memory"].apply == {"train.seismic.accumulate": 2}
    assert "4 parts" in checks["run.parts"].figure


@pytest.mark.parametrize(("tried", "applied"), [(4, {"train.seismic.accumulate": 8}), (8, {})])
def test_parts_that_a_stage_tried_are_not_proposed_again(tried: int, applied: dict[str, object]) -> None:
    keys = {"data.train_velocity": "maps", "train.seismic.batch_size": 16}
    config = load_config("smoke", keys, isolated=True).config
    error = {"stage": "train-seismic", "message": "no memory", "fix": "", "cause": "memory"}
    entry = StageState("train-seismic", "failed", notes=[{"event": "out_of_memory", "accumulate": tried}])
    check = found(config, make_run(config, state="failed", error=error, stages=[entry]))["run.memory"]
    assert check.apply == applied
    assert check.fix


def test_memory_is_weighed_against_the_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("smoke", isolated=True).config
    checks = found(config)
    stages = [i.removeprefix("memory.") for i in checks if i.startswith("memory.")]
    assert stages == [s for s in TABLES if s != "distill"], "smoke distils nothing"
    assert "batch_size 8" in checks["memory.train-seismic"].figure

    needed = memory_of(config)["train-seismic"]
    free = needed.total - needed.activations // 2
    monkeypatch.setattr("ubq.stages.device.memory_available", lambda: free)
    checks = found(config)
    hungry = checks["memory.train-seismic"]
    assert (hungry.status, hungry.apply) == ("failed", {"train.seismic.accumulate": 2})
    assert checks["memory.train-diffusion"].status == "ok"
    done = make_run(config, state="completed", stages=[StageState(s, "completed") for s in TABLES])
    assert not [i for i in found(config, done) if i.startswith("memory.")]


def test_with_one_sample_at_a_time_only_a_smaller_model_helps() -> None:
    config = load_config("smoke", {"qat.batch_size": 4, "qat.accumulate": 4}, isolated=True).config
    fix = out_of_memory(config, "qat-decoders")
    assert not fix.apply
    assert "preset" in fix.command(None)


def report(run: Path, *failed: str, how: str = "measured") -> None:
    marks = [{"id": m, "passed": m not in failed, "value": 0.1, "threshold": 0.3, "how": how} for m in MARKS]
    (run / "exported_models").mkdir(exist_ok=True)
    content = {"run": run.name, "passed": not failed, "marks": marks}
    (run / "exported_models" / "report.json").write_text(json.dumps(content))


def test_every_mark_is_a_check(config: Config) -> None:
    run = make_run(config, state="completed")
    report(run, "beats_noise", "diversity")
    make_maps(config)
    code, checks = run_doctor("r")
    assert code == 3
    marks = {i.removeprefix("marks."): c for i, c in checks.items() if i.startswith("marks.")}
    assert list(marks) == list(MARKS)
    assert [m for m, c in marks.items() if c.status == "failed"] == ["diversity", "beats_noise"]
    assert "train.diffusion.steps=16" in marks["beats_noise"].fix


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"quant.convert_conv1d": False, "quant.scheme": "default", "quant.keep_float": ["a"], "quant.seismic": False},
        {"qat.epochs": 0, "quant.observer": "mse", "export.steps": 4},
        {"quant.observer": "mse", "quant.max_quality_loss": 0.1, "export.solver": "ddpm"},
        {"model.dim_mults": [1, 2, 2, 4]},
    ],
    ids=["plain", "switched off", "ptq", "budget", "large"],
)
def test_what_a_fix_applies_is_a_valid_change(mark: str, overrides: dict[str, object]) -> None:
    start = load_config("smoke", overrides, isolated=True).config
    how = "train-seismic: does not fall; qat-diffusion: 3 rows of training loss, 8 are needed for a trend"
    fix = fix_of(mark, start, how)
    assert fix.cause
    assert fix.command(None)
    Path("frozen.toml").write_text(write_frozen(start))
    fixed = load_config(None, dict(fix.apply), Path("frozen.toml"), isolated=True).config
    assert (fixed != start) == bool(fix.apply)


def test_a_loss_that_does_not_fall_gets_a_lower_rate_in_its_own_stage(config: Config) -> None:
    fix = fix_of("loss_falling", config, "train-seismic: does not fall (p < 0.01): tau 0.1; qat-decoders: rises")
    assert set(fix.apply) == {"train.seismic.lr", "qat.decoders.lr"}
    assert fix.apply["train.seismic.lr"] == config.train.seismic.lr / 2


def test_a_check_that_breaks_does_not_end_the_others(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config) -> list[Check]:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr(examination, "parameters", broken)
    checks = found(config)
    assert checks["parameters.checked"].status == "warning"
    assert "boom" in checks["parameters.checked"].figure
    assert "quantisation.plan" in checks


def test_people_read_words(config: Config) -> None:
    run = make_run(config, state="completed")
    report(run, "generation")
    app = typer.Typer()
    app.command()(doctor)
    result = CliRunner().invoke(app, ["r"])
    assert result.exit_code == 3
    assert "FAILED generation:" in " ".join(result.stdout.split())
    assert "fix:" in result.stdout
    assert "\x1b" not in result.stdout


def test_an_unknown_target_says_so() -> None:
    app = typer.Typer()
    app.command()(doctor)
    assert getattr(CliRunner().invoke(app, ["nothing"]).exception, "exit_code", None) == 2


def test_the_fix_for_memory_reruns_nothing_that_is_done() -> None:
    from ubq.jobs.fingerprints import fingerprint
    from ubq.stages.paths import RunPaths
    from ubq.stages.seismic import TrainSeismic

    def values(**overrides: object) -> dict[str, object]:
        keyed = {k.replace("__", "."): v for k, v in overrides.items()}
        config = load_config("smoke", keyed, isolated=True).config
        return fingerprint(TrainSeismic(), config, RunPaths(Path("r")), [], None)

    assert values(train__seismic__accumulate=4) == values()
    assert values(train__seismic__batch_size=4) != values()
