"""Checkpoints of a complete stage go, and a crash at any moment leaves either them or the verified final file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.durable import read_rows
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.jobs.state import COMPLETED, StateFile, read_state
from ubq.stages.paths import RunPaths
from ubq.training.store import CheckpointStore


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def start(paths: RunPaths) -> int:
    config = toy.toy_config(epochs=25)
    return start_run(config, paths, stages=toy.stages(), console=QuietConsole(), preflight=False)


def checkpoints(paths: RunPaths) -> list[str]:
    return sorted(str(p.relative_to(paths.root)) for p in paths.root.rglob("step-*"))


def digest(paths: RunPaths) -> str:
    return json.loads((paths.exported / "manifest.json").read_text())["weights_sha256"]


def test_a_complete_stage_keeps_its_final_files_alone(paths: RunPaths) -> None:
    assert start(paths) == 0
    assert checkpoints(paths) == []
    assert (paths.checkpoints("diffusion") / "final.json").is_file()
    state = read_state(paths.state)
    assert state is not None
    assert [s.last_checkpoint for s in state.stages] == [None] * 4


class Killed(KeyboardInterrupt):
    """As if the process were gone."""


def before(patch: pytest.MonkeyPatch, owner: type, method: str, when: Callable[[Any], bool]) -> None:
    """Die before the call of a method for which ``when`` of its first argument holds."""
    real = getattr(owner, method)

    def dying(self: Any, *arguments: Any) -> Any:
        if when(self):
            raise Killed
        return real(self, *arguments)

    patch.setattr(owner, method, dying)


def of_diffusion(store: CheckpointStore) -> bool:
    return store.folder.name == "diffusion"


@pytest.mark.parametrize("moment", ["state", "clear", "removal"])
def test_killed_as_a_stage_completes(paths: RunPaths, moment: str) -> None:
    whole = RunPaths(paths.root.with_name("whole"))
    assert start(whole) == 0
    with pytest.MonkeyPatch.context() as patch:
        if moment == "state":
            before(
                patch, StateFile, "save",
                lambda file: any(s.name == "diffusion" and s.state == COMPLETED for s in file.state.stages),
            )  # fmt: skip
        elif moment == "clear":
            before(patch, CheckpointStore, "clear", of_diffusion)
        else:
            real = CheckpointStore._remove

            def dying(store: CheckpointStore, path: Path) -> None:
                if of_diffusion(store) and path.name == "step-25":
                    (path / "DONE").unlink()
                    raise Killed
                real(store, path)

            patch.setattr(CheckpointStore, "_remove", dying)
        with pytest.raises(Killed):
            start(paths)
    final = paths.checkpoints("diffusion") / "final.json"
    steps = CheckpointStore(paths.checkpoints("diffusion")).steps()
    assert final.is_file()
    assert steps == ([] if moment == "removal" else [20, 25])
    assert start(paths) == 0
    assert checkpoints(paths) == []
    assert digest(paths) == digest(whole)
    assert list(read_rows(paths.metrics)) == list(read_rows(whole.metrics))
    begun = [e["event"] for e in read_rows(paths.events) if e.get("stage") == "diffusion"]
    again = ["stage_resumed", "stage_completed"] if moment == "state" else []
    assert begun == ["stage_started", "checkpoint", "checkpoint", "checkpoint", *again]
