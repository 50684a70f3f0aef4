"""A stage that starts over: what was there is set aside, asked for where it was long, and can be gone back to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.config.schema import Config
from ubq.durable import read_rows
from ubq.errors import StageError, UsageError
from ubq.jobs.console import QuietConsole
from ubq.jobs.plan import RESUME, RUN, Selection
from ubq.jobs.run import dry_run, resume_run, start_run
from ubq.jobs.state import read_state
from ubq.stages.paths import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def stops_at(step: int) -> list[Any]:
    """The pipeline, its first stage failing after a step."""

    class Fails(toy.Autoencoder):
        def run(self, context: Any) -> None:
            real = context.progress

            def progress(at: int, steps: int, **figures: float | str) -> None:
                real(at, steps, **figures)
                if at == step:
                    raise StageError("it fails here")

            context.progress = progress
            super().run(context)

    return [Fails(), *toy.stages()[1:]]


def config(epochs: int = 40, seed: int = 0) -> Config:
    return toy.toy_config(seed=seed, epochs=epochs)


def start(paths: RunPaths, config: Config, stages: list[Any] | None = None, **selection: Any) -> int:
    return start_run(
        config,
        paths,
        stages=stages or toy.stages(),
        selection=Selection(**selection),
        console=QuietConsole(),
        preflight=False,
    )


def checkpoints(paths: RunPaths) -> set[str]:
    folder = paths.checkpoints("autoencoder")
    return {p.parent.relative_to(folder).as_posix() for p in folder.rglob("DONE")}


def test_checkpoints_of_other_values_are_set_aside_and_gone_back_to(paths: RunPaths) -> None:
    assert start(paths, config(40), stops_at(25)) == 1
    rows = list(read_rows(paths.metrics))
    assert checkpoints(paths) == {"step-10", "step-20"}
    assert start(paths, config(30), stops_at(15)) == 1
    assert checkpoints(paths) == {"superseded/1/step-10", "superseded/1/step-20", "step-10"}
    assert "checkpoints/autoencoder/superseded/1" in paths.log.read_text()
    planned = dry_run(config(40), paths, stages=toy.stages())[0]
    assert (planned.action, planned.step, planned.discards) == (RESUME, 20, 0)
    assert start(paths, config(40), stops_at(33)) == 1
    resumed = [e for e in read_rows(paths.events) if e["event"] == "stage_resumed"]
    assert resumed[-1]["step"] == 20
    assert list(read_rows(paths.metrics))[:20] == rows[:20]
    assert start(paths, config(40)) == 0
    assert not (paths.checkpoints("autoencoder") / "superseded").exists()
    whole = RunPaths(paths.root.with_name("whole"))
    assert start(whole, config(40)) == 0
    assert (paths.exported / "manifest.json").read_bytes() == (whole.exported / "manifest.json").read_bytes()


def test_a_process_killed_while_it_brings_them_back_does_so_again(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(paths, config(40), stops_at(25)) == 1
    assert start(paths, config(30), stops_at(15)) == 1

    def killed(store: object, folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ubq.training.store.CheckpointStore.bring_back", killed)
        with pytest.raises(KeyboardInterrupt):
            start(paths, config(40))
    planned = dry_run(config(40), paths, stages=toy.stages())[0]
    assert (planned.action, planned.step) == (RESUME, 20)
    assert start(paths, config(40)) == 0


@pytest.fixture
def long(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """A run whose every second counts as long."""
    assert start(paths, config(4)) == 0
    monkeypatch.setattr("ubq.jobs.plan.UNASKED_S", 0.0)
    return paths


def test_long_work_is_not_done_over_unasked(long: RunPaths) -> None:
    before = long.state.read_bytes(), long.config.read_bytes()
    with pytest.raises(UsageError, match=r"of work would be done over: autoencoder \(seed 0 -> 1") as caught:
        start(long, config(4, seed=1))
    assert "--yes" in caught.value.fix
    assert (long.state.read_bytes(), long.config.read_bytes()) == before
    with pytest.raises(UsageError, match="diffusion"):
        start(long, config(4, seed=1), force="qat")
    assert start(long, config(4, seed=1), force="autoencoder") == 0
    assert start(long, config(4, seed=2), yes=True) == 0


def test_resume_takes_values_and_says_what_runs_again(long: RunPaths) -> None:
    with pytest.raises(UsageError, match="qat"):
        resume_run(long, overrides={"qat.epochs": "7"}, stages=toy.stages(), console=QuietConsole(), preflight=False)
    code = resume_run(
        long,
        overrides={"qat.epochs": "7"},
        selection=Selection(yes=True),
        stages=toy.stages(),
        console=QuietConsole(),
        preflight=False,
    )
    assert code == 0
    state = read_state(long.state)
    assert state is not None
    assert [s.step for s in state.stages] == [4, 4, 7, 0]
    assert "epochs = 7" in long.config.read_text()
    with pytest.raises(UsageError, match="did you mean"):
        resume_run(long, overrides={"qat.epoch": "7"}, stages=toy.stages(), console=QuietConsole())


def test_forced_stages_start_over(paths: RunPaths) -> None:
    assert start(paths, config(20), stops_at(15)) == 1
    planned = dry_run(config(20), paths, stages=toy.stages(), selection=Selection(force="autoencoder"))[0]
    assert (planned.action, planned.aside) == (RUN, ("checkpoints/autoencoder/step-10",))
