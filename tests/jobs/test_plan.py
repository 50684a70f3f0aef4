"""What runs again, and why, in values."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import toy

from ubq.config.schema import Config
from ubq.data import content
from ubq.durable import read_rows
from ubq.errors import EXIT_MARK_FAILED, EXIT_OK, EXIT_USAGE, UsageError
from ubq.jobs.console import QuietConsole
from ubq.jobs.fingerprints import changes, file_signature
from ubq.jobs.plan import Planned, Selection
from ubq.jobs.run import dry_run, start_run
from ubq.jobs.state import read_state
from ubq.stages.base import Stage
from ubq.stages.paths import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return RunPaths(tmp_path / "run")


def run(config: Config, paths: RunPaths, stages: list[Stage] | None = None, **selection: str) -> int:
    return start_run(
        config, paths, selection=Selection(**selection), stages=stages or toy.stages(), console=QuietConsole()
    )


def plan(config: Config, paths: RunPaths, stages: list[Stage] | None = None, **selection: str) -> dict[str, Planned]:
    planned = dry_run(config, paths, selection=Selection(**selection), stages=stages or toy.stages())
    return {p.name: p for p in planned}


def actions(planned: dict[str, Planned]) -> list[str]:
    return [p.action for p in planned.values()]


def changed(config: Config, **tables: dict[str, Any]) -> Config:
    raw = config.model_dump()
    for table, values in tables.items():
        raw[table].update(values)
    return Config.model_validate(raw)


def test_a_dry_run_changes_nothing(paths: RunPaths) -> None:
    planned = plan(toy.toy_config(), paths)
    assert actions(planned) == ["run"] * 4
    assert planned["autoencoder"].reasons == ("not run yet",)
    assert not paths.root.exists()


def test_complete_is_up_to_date(paths: RunPaths) -> None:
    assert run(toy.toy_config(epochs=6), paths) == EXIT_OK
    assert actions(plan(toy.toy_config(epochs=6), paths)) == ["up to date"] * 4
    before = paths.metrics.read_bytes(), len(list(read_rows(paths.events)))
    assert run(toy.toy_config(epochs=6), paths) == EXIT_OK
    assert (paths.metrics.read_bytes(), len(list(read_rows(paths.events)))) == before


def test_a_changed_key_runs_its_stage_and_what_follows_again(paths: RunPaths) -> None:
    run(toy.toy_config(epochs=6), paths)
    other = changed(toy.toy_config(epochs=6), qat={"epochs": 4})
    planned = plan(other, paths)
    assert actions(planned) == ["up to date", "up to date", "run", "run"]
    assert planned["qat"].reasons == ("qat.epochs 6 -> 4",)
    assert planned["export"].reasons == ("qat runs before it",)
    assert run(other, paths) == EXIT_OK
    assert [r["step"] for r in read_rows(paths.metrics) if r["stage"] == "qat"] == [1, 2, 3, 4]
    assert len([r for r in read_rows(paths.metrics) if r["stage"] == "autoencoder"]) == 6
    assert actions(plan(other, paths)) == ["up to date"] * 4


@pytest.mark.parametrize(
    "tables",
    [
        {"run": {"log_every": 77}},
        {"run": {"checkpoint_steps": 3, "checkpoint_minutes": 9.0, "keep_checkpoints": 5}},
        {"data": {"workers": 7}},
        {"export": {"name": "other"}},
    ],
)
def test_what_decides_nothing_reruns_nothing(paths: RunPaths, tables: dict[str, dict[str, Any]]) -> None:
    config = toy.toy_config(epochs=6)
    run(config, paths)
    assert actions(plan(changed(config, **tables), paths)) == ["up to date"] * 4


def test_a_table_that_a_stage_reads_is_read_whole(paths: RunPaths) -> None:
    config = toy.toy_config(epochs=6)
    run(config, paths)
    planned = plan(changed(config, data={"synth_samples": 9}), paths)
    assert planned["diffusion"].reasons == ("data.synth_samples 1024 -> 9",)


def test_interrupted_resumes_unless_its_values_changed(paths: RunPaths) -> None:
    config = toy.toy_config(epochs=30)

    class Stops(toy.Diffusion):
        def run(self, context: Any) -> None:
            steps = iter(range(100))
            context.stop_requested = lambda: next(steps) == 13
            super().run(context)

    stages = toy.stages()
    assert run(config, paths, [stages[0], Stops(), *stages[2:]]) == 130
    state = read_state(paths.state)
    assert state is not None
    assert (state.state, state.next_command) == ("interrupted", f"ubq resume run --runs-dir {paths.root.parent}")
    planned = plan(config, paths)
    assert actions(planned) == ["up to date", "resume", "run", "run"]
    assert planned["diffusion"].step == 14
    other = changed(config, train={"diffusion": {"epochs": 20}})
    planned = plan(other, paths)
    assert (planned["diffusion"].action, planned["diffusion"].step) == ("run", 0)
    assert run(other, paths) == EXIT_OK
    steps = [r["step"] for r in read_rows(paths.metrics) if r["stage"] == "diffusion"]
    assert steps == list(range(1, 21))


def test_a_missing_output_is_made_again(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy.toy_config(epochs=6)
    run(config, paths)
    final = paths.checkpoints("autoencoder") / "final.json"
    content = final.read_bytes()
    final.unlink()
    planned = plan(config, paths)
    assert (planned["autoencoder"].action, planned["autoencoder"].step) == ("run", 0)
    assert planned["autoencoder"].reasons == ("checkpoints/autoencoder/final.json is missing",)
    with monkeypatch.context() as patch:  # its checkpoints went as it was complete: all of its work is done over
        patch.setattr("ubq.jobs.plan.UNASKED_S", 0.0)
        with pytest.raises(UsageError, match=r"done over: autoencoder \(.*final.json is missing"):
            run(config, paths)
    assert run(config, paths) == EXIT_OK
    assert final.read_bytes() == content
    ran = [e["stage"] for e in read_rows(paths.events) if e["event"] == "stage_completed"]
    assert ran == ["autoencoder", "diffusion", "qat", "export", "autoencoder"]  # its output is the same: nothing else


def test_an_output_that_was_replaced_runs_what_reads_it(paths: RunPaths) -> None:
    config = toy.toy_config(epochs=6)
    run(config, paths)
    (paths.checkpoints("diffusion") / "final.json").write_text("{}")
    planned = plan(config, paths)
    assert actions(planned) == ["up to date", "up to date", "run", "run"]
    assert planned["qat"].reasons == ("checkpoints/diffusion/final.json of diffusion changed",)


def test_another_input_runs_what_follows_though_the_output_is_the_same(paths: RunPaths, tmp_path: Path) -> None:
    """A stage's named outputs need not hold all that the next one reads (prepare: dataset.json and the pairs)."""
    data = tmp_path / "data.npy"
    data.write_bytes(b"abc")
    config = toy.toy_config(epochs=6)
    stages = [WithFile(data), *toy.stages()[1:]]
    run(config, paths, stages)
    data.write_bytes(b"abd")
    assert run(config, paths, stages, until="autoencoder") == EXIT_OK
    state = read_state(paths.state)
    assert state is not None
    assert state.state == "partial"  # what follows is complete, and out of date
    planned = plan(config, paths, stages)
    assert actions(planned) == ["up to date", "run", "run", "run"]
    assert planned["diffusion"].reasons == ("autoencoder ran again with other values",)
    assert run(config, paths, stages) == EXIT_OK
    assert actions(plan(config, paths, stages)) == ["up to date"] * 4


class WithFile(toy.Autoencoder):
    def __init__(self, path: Path, version: int = 1, fact: object = 1) -> None:
        super().__init__()
        self.path = path
        self.version = version  # type: ignore[misc]
        self.fact = fact

    def inputs(self, config: Config) -> Iterable[Path]:
        return [self.path]

    def facts(self, config: Config) -> dict[str, object]:
        return {"samples": self.fact}


def test_inputs_versions_and_facts_count_and_times_do_not(paths: RunPaths, tmp_path: Path) -> None:
    data = tmp_path / "data.npy"
    data.write_bytes(b"abc")
    config = toy.toy_config(epochs=6)
    rest = toy.stages()[1:]
    assert run(config, paths, [WithFile(data), *rest]) == EXIT_OK
    os.utime(data, (1, 1))
    assert plan(config, paths, [WithFile(data), *rest])["autoencoder"].action == "up to date"
    assert plan(config, paths, [WithFile(data, version=2), *rest])["autoencoder"].reasons == ("stage version 1 -> 2",)
    assert plan(config, paths, [WithFile(data, fact=2), *rest])["autoencoder"].reasons == ("samples 1 -> 2",)
    stat = data.stat()
    data.write_bytes(b"abd")
    os.utime(data, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert plan(config, paths, [WithFile(data), *rest])["autoencoder"].reasons == (f"{data} changed",)


def test_force_runs_a_stage_and_its_dependents_also_after_a_stop(paths: RunPaths) -> None:
    config = toy.toy_config(epochs=6)
    run(config, paths)
    assert actions(plan(config, paths, force="diffusion")) == ["up to date", "run", "run", "run"]

    class Fails(toy.Diffusion):
        def run(self, context: Any) -> None:
            raise RuntimeError("broken")

    stages = toy.stages()
    assert run(config, paths, [stages[0], Fails(), *stages[2:]], force="diffusion") == 1
    assert actions(plan(config, paths)) == ["up to date", "run", "run", "run"]
    assert run(config, paths) == EXIT_OK


def test_a_part_that_is_up_to_date_does_not_hide_the_rest(paths: RunPaths) -> None:
    run(toy.toy_config(epochs=6), paths)
    other = changed(toy.toy_config(epochs=6), qat={"epochs": 4})
    assert run(other, paths, until="diffusion") == EXIT_OK
    state = read_state(paths.state)
    assert state is not None
    assert (state.state, state.next_command != "") == ("partial", True)


def test_a_mark_of_a_file_that_is_to_be_made_anew_is_not_that_of_a_part(paths: RunPaths) -> None:
    stages = [*toy.stages()[:3], toy.Verify()]
    assert run(toy.toy_config(epochs=6), paths, stages) == EXIT_MARK_FAILED
    other = changed(toy.toy_config(epochs=6), qat={"epochs": 4})
    assert run(other, paths, stages, until="qat") == EXIT_OK
    state = read_state(paths.state)
    assert state is not None
    assert (state.state, state.error) == ("partial", None)


def test_until_and_only(paths: RunPaths) -> None:
    config = toy.toy_config(epochs=6)
    with pytest.raises(UsageError, match="needs"):
        run(config, paths, only="diffusion")
    assert not paths.state.exists()
    assert run(config, paths, until="diffusion") == EXIT_OK
    state = read_state(paths.state)
    assert state is not None
    assert state.state == "partial"
    assert [s.state for s in state.stages] == ["completed", "completed", "pending", "pending"]
    assert run(config, paths, only="qat") == EXIT_OK
    assert run(config, paths, only="export") == EXIT_OK
    assert read_state(paths.state).state == "completed"  # type: ignore[union-attr]


def test_an_unknown_stage(paths: RunPaths) -> None:
    with pytest.raises(UsageError, match="no stage difusion") as caught:
        run(toy.toy_config(), paths, only="difusion")
    assert caught.value.exit_code == EXIT_USAGE
    assert "did you mean diffusion" in caught.value.fix
    assert not paths.root.exists()


def test_a_key_that_a_newer_ubq_added_at_its_default_changes_nothing() -> None:
    defaults = {"seed": 0, "new": 5}
    assert changes({"version": 1, "seed": 3}, {"version": 1, "seed": 3, "new": 5}, defaults) == []
    assert changes({"version": 1, "seed": 3}, {"version": 1, "seed": 3, "new": 6}, defaults) == ["new 5 -> 6"]
    assert changes({"gone": 1}, {}, defaults) == []


def test_large_files_are_sampled_from_the_first_byte_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "WHOLE_BYTES", 1 << 16)
    monkeypatch.setattr(content, "BLOCK_BYTES", 16)
    size = 1 << 18
    seen = set()
    for position in (None, 0, 15, size - 1, size - 16, size // 2):
        data = bytearray(size)
        if position is not None:
            data[position] = 1
            if position == size // 2:
                data = bytearray(b"\2" * size)
        path = tmp_path / f"{position}"
        path.write_bytes(data)
        seen.add(file_signature(path))
    assert len(seen) == 6
    (tmp_path / "longer").write_bytes(bytes(size + 1))
    assert file_signature(tmp_path / "longer") not in seen
    assert file_signature(tmp_path / "absent") == "missing"


def test_a_folder_counts_by_what_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    first = file_signature(folder)
    (folder / "b").write_bytes(b"2")
    second = file_signature(folder)
    (folder / "b").rename(folder / "c")
    assert len({first, second, file_signature(folder)}) == 3
