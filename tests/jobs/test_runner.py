"""What a run leaves behind when a stage fails, and what it reports while it works."""

from __future__ import annotations

import errno
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.durable import read_rows
from ubq.errors import EXIT_HELD, EXIT_MARK_FAILED, EXIT_PREFLIGHT, DivergedError, StageError, UbqError
from ubq.jobs.checks.check import Check
from ubq.jobs.console import QuietConsole
from ubq.jobs.fingerprints import changes
from ubq.jobs.frozen import load_frozen, write_config
from ubq.jobs.owner import Hold, LostHoldError
from ubq.jobs.run import resume_run, start_run
from ubq.jobs.state import StageState, read_state, write_state
from ubq.jobs.status import snapshot
from ubq.stages.paths import RunPaths


class Lines(QuietConsole):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[tuple[int, int]] = []

    def line(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, entry: StageState) -> None:
        self.seen.append((entry.step, entry.steps))


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def start(paths: RunPaths, stages: list[Any], console: QuietConsole | None = None) -> int:
    return start_run(toy.toy_config(epochs=20), paths, stages=stages, console=console or QuietConsole())


def test_a_failure_that_the_user_can_fix(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(paths, toy.failing(StageError("the loss is not a number", "lower train.diffusion.lr"))) == 1
    shown = capsys.readouterr().err
    assert shown.splitlines()[0] == "error: diffusion: the loss is not a number"
    assert "lower train.diffusion.lr" in shown
    assert "Traceback" not in shown + paths.log.read_text()
    state = read_state(paths.state)
    assert state is not None
    assert (state.state, state.exit_code) == ("failed", 1)
    assert state.error == {
        "stage": "diffusion",
        "message": "the loss is not a number",
        "fix": "lower train.diffusion.lr",
    }
    assert [s.state for s in state.stages] == ["completed", "failed", "pending", "pending"]
    assert resume_run(paths, stages=toy.stages(), console=QuietConsole()) == 0
    assert read_state(paths.state).error is None  # type: ignore[union-attr]
    resumed = [e for e in read_rows(paths.events) if e["event"] == "stage_resumed"]
    assert [(e["stage"], e["step"], e["reasons"]) for e in resumed] == [("diffusion", 10, ["failed"])]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (MemoryError("Unable to allocate 9 GiB"), "out of memory"),
    ],
)
def test_other_failures_are_one_line_and_a_traceback_in_the_log(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], error: Exception, says: str
) -> None:
    assert start(paths, toy.failing(error)) == 1
    shown = capsys.readouterr().err
    assert says in shown.splitlines()[0]
    assert "Traceback" not in shown
    assert ("Traceback" in paths.log.read_text()) == (not isinstance(error, OSError))
    assert snapshot(paths.root).shown == "failed"
    assert start(paths, toy.stages()) == 0


def test_a_failed_mark_completes_the_run_with_its_own_exit_code(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [*toy.stages()[:3], toy.Verify()]
    assert start(paths, stages) == EXIT_MARK_FAILED
    assert "file_size" in capsys.readouterr().err
    shot = snapshot(paths.root)
    assert (shot.shown, shot.state.exit_code) == ("completed", EXIT_MARK_FAILED)
    console = Lines()
    assert start(paths, stages, console) == EXIT_MARK_FAILED
    assert any("file_size" in line for line in console.lines)


def test_a_stage_that_makes_nothing_fails(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    class Lazy(toy.Export):
        def run(self, context: Any) -> None:
            pass

    assert start(paths, [*toy.stages()[:3], Lazy()]) == 1
    assert "ended without making" in capsys.readouterr().err


def test_progress_figures_reach_state_and_console(paths: RunPaths) -> None:
    class Reports(toy.Export):
        def run(self, context: Any) -> None:
            context.progress(1, 4, loss=2.0, phase="observe")
            context.progress(2, 4, loss=3.0, phase="weights")
            context.metrics(2, loss=3.0, val_loss=5.0)
            context.metrics(3, loss=float("nan"), val_loss=4.5)
            context.event("phase", phase="weights")
            context.log("a line")
            super().run(context)

    console = Lines()
    assert start(paths, [*toy.stages()[:3], Reports()], console) == 0
    state = read_state(paths.state)
    assert state is not None
    entry = state.stages[-1]
    assert (entry.phase, entry.loss, entry.best_loss) == ("weights", 3.0, 4.5)
    assert console.seen[-2:] == [(1, 4), (2, 4)]
    assert "export: a line" in console.lines
    assert list(read_rows(paths.metrics))[-1] == {"stage": "export", "step": 3, "loss": None, "val_loss": 4.5}
    assert [e["stage"] for e in read_rows(paths.events) if e["event"] == "phase"] == ["export"]
    assert state.artifacts[-1]["path"] == "exported_models/manifest.json"
    assert state.artifacts[-1]["bytes"] > 0


def test_the_state_is_on_disk_before_a_stage_runs(paths: RunPaths) -> None:
    seen = {}

    class Looks(toy.Export):
        def run(self, context: Any) -> None:
            seen.update(json.loads(context.paths.state.read_text()))
            super().run(context)

    assert start(paths, [*toy.stages()[:3], Looks()]) == 0
    assert seen["state"] == "running"
    assert seen["stages"][-1]["state"] == "running"
    assert paths.config.is_file()


def test_the_thread_count_is_the_runs_own(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Looks(toy.Export):
        def run(self, context: Any) -> None:
            seen.append(context.config.threads)
            super().run(context)

    config = toy.toy_config(epochs=2).model_copy(update={"threads": 0})
    stages = [*toy.stages()[:3], Looks()]
    monkeypatch.setattr("ubq.jobs.frozen.cores", lambda: 3)
    start_run(config, paths, stages=stages, console=QuietConsole())
    monkeypatch.setattr("ubq.jobs.frozen.cores", lambda: 5)
    (paths.exported / "manifest.json").unlink()
    start_run(config, paths, stages=stages, console=QuietConsole())
    assert seen == [3, 3]


class Trains(toy.Autoencoder):
    """A stage whose output hangs on the device, as that of every stage that trains does."""

    reads = (*toy.Autoencoder.reads, "device")


def test_an_automatic_device_is_fixed_at_the_first_start(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, stages = toy.toy_config(epochs=2), [Trains(), *toy.stages()[1:]]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert start_run(config, paths, stages=stages, console=QuietConsole(), preflight=False) == 0
    assert load_frozen(paths).device == "cuda"
    monkeypatch.undo()
    (paths.exported / "manifest.json").unlink()
    assert resume_run(paths, stages=stages, console=QuietConsole()) == 0  # nothing is left to train
    capsys.readouterr()
    (paths.checkpoints("autoencoder") / "final.json").unlink()
    assert start_run(config, paths, stages=stages, console=QuietConsole()) == EXIT_PREFLIGHT
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: device cuda is not available on this machine"
    assert f"ubq resume run --runs-dir {paths.root.parent} --set device=cpu" in lines[1]


def test_a_run_that_trained_under_an_automatic_device_is_not_trained_again(paths: RunPaths) -> None:
    """Runs of before kept ``auto``; what they hold was trained here, whatever it was."""
    config, stages = toy.toy_config(epochs=2), [Trains(), *toy.stages()[1:]]
    start_run(config, paths, stages=stages, console=QuietConsole(), preflight=False)
    state = json.loads(paths.state.read_text())
    state["stages"][0]["fingerprint"]["device"] = "auto"
    paths.state.write_text(json.dumps(state))
    paths.config.write_text(paths.config.read_text().replace('device = "cpu"', 'device = "auto"'))
    console = Lines()
    assert resume_run(paths, stages=stages, console=console) == 0
    assert console.lines == ["run run is complete and up to date"]
    assert load_frozen(paths).device == "auto"


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(paths: RunPaths) -> None:
    start(paths, toy.failing(StageError("stop"), after_step=15))
    checkpoint = paths.checkpoints("diffusion") / "step-10"
    start(paths, toy.failing(StageError("stop"), after_step=25 - 6))
    assert checkpoint.is_dir()
    assert start(paths, toy.failing(StageError("stop"), after_step=20)) == 1
    newest = paths.checkpoints("diffusion") / "step-10" / "state.pt"
    newest.write_bytes(b"damaged")
    console = Lines()
    assert start(paths, toy.stages(), console) == 0
    assert any("step-10 is damaged" in line for line in console.lines)
    assert [r["step"] for r in read_rows(paths.metrics) if r["stage"] == "diffusion"] == list(range(1, 21))


def test_an_unreadable_state_is_refused_with_a_fix(paths: RunPaths) -> None:
    start(paths, toy.stages())
    paths.state.write_text("{")
    with pytest.raises(UbqError, match="is not a state file"):
        start(paths, toy.stages())
    assert paths.state.read_text() == "{"


def test_a_row_before_the_first_step_is_not_doubled(paths: RunPaths) -> None:
    class Judges(toy.Diffusion):
        fails = True

        def run(self, context: Any) -> None:
            if context.store.latest_step() == 0:
                context.metrics(0, val_loss=1.0)
            if Judges.fails:
                raise StageError("before the first checkpoint")
            super().run(context)

    stages = toy.stages()
    stages[1] = Judges()
    assert start(paths, stages) == 1
    Judges.fails = False
    assert start(paths, stages) == 0
    assert [r["step"] for r in read_rows(paths.metrics) if r["stage"] == "diffusion"] == list(range(21))


def test_a_failed_preflight_is_not_a_stages_failure(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(paths, toy.failing(StageError("it fails here"))) == 1
    full = Check(id="disk", status="failed", figure="too little disk space", fix="make room")
    monkeypatch.setattr("ubq.jobs.checks.preflight.check_run", lambda *given: [full])
    capsys.readouterr()
    assert start(paths, toy.stages()) == EXIT_PREFLIGHT
    state = read_state(paths.state)
    assert state is not None
    assert state.error == {"stage": "", "message": "too little disk space", "fix": "make room"}
    assert [s.error["message"] for s in state.stages if s.error] == ["it fails here"]
    assert capsys.readouterr().err.startswith("error: too little disk space")


def test_a_failure_belongs_to_the_stage_that_failed(paths: RunPaths) -> None:
    """Not to an earlier one that was left unfinished."""
    assert start(paths, toy.failing(StageError("first"))) == 1
    state = read_state(paths.state)
    assert state is not None
    state.stages[0].state = "failed"
    write_state(paths.state, state)

    class Fails(toy.Export):
        def run(self, context: Any) -> None:
            raise StageError("second")

    assert start(paths, [*toy.stages()[:3], Fails()]) == 1
    state = read_state(paths.state)
    assert state is not None
    assert state.error is not None
    assert (state.error["stage"], state.error["message"]) == ("export", "second")


def test_a_run_that_another_process_took_over_is_left_to_it(paths: RunPaths) -> None:
    class Slept(toy.Diffusion):
        def run(self, context: Any) -> None:
            real = context.progress

            def progress(step: int, steps: int, **figures: float | str) -> None:
                real(step, steps, **figures)
                if step == 12:  # what the other one does meanwhile
                    owner = json.loads((paths.root / "owner.json").read_bytes())
                    (paths.root / "owner.json").write_text(json.dumps({**owner, "token": "other", "host": "elsewhere"}))
                    seen.update({p: p.read_bytes() for p in paths.root.rglob("*") if p.is_file()})

            context.progress = progress
            super().run(context)

    seen: dict[Path, bytes] = {}
    with pytest.raises(LostHoldError, match="elsewhere") as caught:
        start(paths, [toy.stages()[0], Slept(), *toy.stages()[2:]])
    assert caught.value.exit_code == EXIT_HELD
    assert {p: p.read_bytes() for p in paths.root.rglob("*") if p.is_file()} == seen


def test_a_folder_that_is_renamed_under_a_run_was_not_taken_over(paths: RunPaths) -> None:
    with Hold(paths.root, network=False) as hold:
        paths.root.rename(paths.root.with_name("other"))
        with pytest.raises(LostHoldError, match="renamed or removed") as caught:
            hold.check()
    assert "attach" not in str(caught.value)
    assert f"ubq runs --runs-dir {paths.root.parent}" in caught.value.fix


def test_a_diverged_stage_gets_a_command_that_goes_on(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    class Diverges(toy.Diffusion):
        name = "train-diffusion"

        def run(self, context: Any) -> None:
            raise DivergedError("the gradient is not finite", "lower the stage's lr")

    stages = [toy.stages()[0], Diverges()]
    assert start(paths, stages) == 1
    state = read_state(paths.state)
    assert state is not None
    assert state.error is not None
    command = shlex.split(state.error["fix"])
    assert command[:3] == ["ubq", "resume", "run"]
    assert command[command.index("--set") + 1] == "train.diffusion.lr=4e-05"
    assert Path(command[command.index("--runs-dir") + 1]) == paths.root.parent


def test_what_follows_a_divergence_is_the_command_with_the_smaller_rate(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Diverges(toy.Diffusion):
        name = "train-diffusion"

        def run(self, context: Any) -> None:
            raise DivergedError("the gradient is not finite", "lower the stage's lr")

    monkeypatch.setattr("ubq.jobs.fixes.UNASKED_S", 0.0)  # so much work is not thrown away unasked
    assert start(paths, [toy.stages()[0], Diverges()]) == 1
    sets = ["--set", "train.diffusion.lr=4e-05", "--yes"]
    wanted = shlex.join(["ubq", "resume", "run", "--runs-dir", str(paths.root.parent), *sets])
    said = capsys.readouterr().err
    assert f"resume with: {wanted}\n" in said
    assert said.count("ubq resume") == 1
    state = read_state(paths.state)
    assert state is not None
    assert state.next_command == wanted
    monkeypatch.chdir(paths.root.parent)  # its folder may be another since
    paths.root.rename("other")
    monkeypatch.setenv("UBQ_RUN__DIR", ".")
    assert snapshot(Path("other")).state.next_command == shlex.join(["ubq", "resume", "other", *sets])
    assert resume_run(RunPaths(Path("other")), stages=toy.stages()[:1], console=QuietConsole(), preflight=False) == 0
    after = read_state(Path("other/state.json"))
    assert after is not None
    assert "--set" not in after.next_command


def test_a_run_goes_on_from_any_working_folder(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paths.root.parent)
    config = toy.toy_config(epochs=20)
    data = config.data.model_copy(update={"train_velocity": "maps/", "train_seismic": "maps"})
    relative = RunPaths(Path("run"))
    stages = toy.failing(StageError("it fails here"))
    start_run(
        config.model_copy(update={"data": data}), relative, stages=stages, console=QuietConsole(), preflight=False
    )
    frozen = load_frozen(paths)
    maps = str(paths.root.parent / "maps")
    assert (frozen.data.train_velocity, frozen.data.train_seismic, frozen.run.dir) == (
        maps,
        maps,
        str(paths.root.parent),
    )
    (paths.root.parent / "elsewhere").mkdir()
    monkeypatch.chdir(paths.root.parent / "elsewhere")
    assert resume_run(RunPaths(Path("../run")), stages=toy.stages(), console=QuietConsole(), preflight=False) == 0
    events = [e for e in read_rows(paths.events) if e["event"] == "stage_resumed"]
    assert [(e["stage"], e["step"]) for e in events] == [("diffusion", 10)]


def test_a_frozen_configuration_of_before_is_read_from_where_it_was_started(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ubq 0.1.0 froze paths as they were given, and kept them so in the fingerprints."""
    work = paths.root.parent / "work"
    old = RunPaths(work / "runs" / "run")
    old.root.mkdir(parents=True)
    config = toy.toy_config(epochs=20)
    data = config.data.model_copy(update={"train_velocity": "maps/x.npy"})
    old_config = config.model_copy(update={"data": data})
    write_config(old, old_config)
    monkeypatch.chdir(paths.root.parent)
    assert load_frozen(old).data.train_velocity == str(work / "maps" / "x.npy")
    before = {"data.train_velocity": "maps/x.npy", "input maps/x.npy": "sha"}
    now = {"data.train_velocity": str(work / "maps/x.npy"), f"input {work}/maps/x.npy": "sha"}
    assert changes(before, now, {}) == []
    assert changes(before, now | {f"input {work}/maps/x.npy": "other"}, {}) != []
    assert changes(before | {"data.train_velocity": "other/x.npy"}, now, {}) != []


def test_a_run_keeps_where_its_values_came_from(tmp_path: Path) -> None:
    from ubq.config.load import load_config

    paths = RunPaths(tmp_path / "run")

    def start(**more: object) -> dict[str, str]:
        loaded = load_config(isolated=True, **more)  # type: ignore[arg-type]
        start_run(
            loaded.config, paths, stages=toy.stages(), preflight=False, console=QuietConsole(),
            provenance=loaded.provenance,
        )  # fmt: skip
        return json.loads(paths.sources.read_text())

    overrides = {"train.autoencoder.steps": 10, "train.diffusion.steps": 10, "qat.epochs": 2}
    first = start(preset="smoke", overrides=overrides)
    assert (first["qat.epochs"], first["threads"]) == ("--set qat.epochs", "this machine")
    assert first["data.family"].startswith("preset ")
    again = start(project_file=paths.config, overrides={"qat.epochs": 3, "qat.lr": 0.001})
    assert again == {**first, "qat.lr": "--set qat.lr", "qat.decoders.lr": again["qat.decoders.lr"],
                     "qat.diffusion.lr": again["qat.diffusion.lr"]}  # fmt: skip


def test_a_stage_says_where_it_ran_and_how_much_memory_it_took(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    config = toy.toy_config(epochs=2)
    assert start_run(config, paths, stages=toy.stages(), preflight=False, console=QuietConsole()) == 0
    for stage in json.loads(paths.state.read_text())["stages"]:
        assert stage["peak_memory"] > 5_000_000
        assert stage["machine"]["cores"] >= 1
        assert stage["machine"]["cpu"]
        assert stage["machine"]["host"]
