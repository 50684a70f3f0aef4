"""The troubleshooting checklist: machine, configuration, data, checkpoint, memory, quantisation, success marks.

``ubq doctor`` prints it and the text UI shows it. Nothing is changed, and a check that breaks is a
warning of its own, never the end of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.i18n import gettext as _
from ubq.jobs.checks.check import Check, guarded
from ubq.jobs.checks.configuration import checkpoint, data, parameters
from ubq.jobs.checks.machine import check_memory, environment
from ubq.jobs.checks.preflight import check_run
from ubq.jobs.checks.run import marks, quantisation, run_state, stored_checkpoints
from ubq.jobs.fixes import out_of_memory
from ubq.stages.paths import RunPaths
from ubq.stages.settings import training_of

if TYPE_CHECKING:
    from ubq.config.schema import Config


def examine(config: Config | None, run: Path | None = None) -> list[Check]:
    """All checks that apply.

    Args:
        config: a valid configuration; None: only the machine is looked at.
        run: folder of a run; None: nothing has run yet.
    """
    checks = environment(config)
    if config is not None:
        checks += [
            *guarded("parameters", lambda: parameters(config)),
            *guarded("data", lambda: data(config, run)),
            *guarded("checkpoint", lambda: checkpoint(config)),
            *guarded("preflight", lambda: machine_for(config, run)),
        ]
    if run is not None and config is not None:
        checks += [
            *guarded("run", lambda: run_state(config, run)),
            *guarded("checkpoint", lambda: stored_checkpoints(config, run)),
        ]
    if config is not None:
        checks += guarded("quantisation", lambda: quantisation(config, run))
    if run is not None and config is not None:
        checks += guarded("marks", lambda: marks(config, run))
    return checks


def machine_for(config: Config, run: Path | None) -> Iterator[Check]:
    """What the configuration asks of the machine: the checks a run starts with, and memory stage by stage.

    Of a run, only the stages that are not complete count.
    """
    from ubq.jobs.state import COMPLETED, read_state
    from ubq.stages import PIPELINE

    paths = RunPaths(run or Path(config.run.dir) / config.run.name)
    state = read_state(paths.state)
    done = {s.name for s in state.stages if s.state == COMPLETED} if state else set()
    todo = [stage for stage in PIPELINE if stage.applies(config) and stage.name not in done]
    checks = check_run(config, paths, todo, contents=False)  # the checkpoint has its own line
    if any(check.id == "memory" for check in checks):
        yield from _memory_of_stages(config, run, {stage.name for stage in todo})
    for check in checks:
        if check.id != "memory" and not check.id.startswith("data."):  # the data have their own lines
            yield replace(check, id=f"preflight.{check.id}")


def _memory_of_stages(config: Config, run: Path | None, todo: set[str]) -> Iterator[Check]:
    from ubq.stages.estimate import memory_of

    for stage, needed in memory_of(config).items():
        training = training_of(config, stage)
        if stage not in todo or training is None:
            continue
        for check in check_memory(config, {stage: needed}):
            fix = out_of_memory(config, stage)
            size = _("{figure}; batch_size {batch} in {parts} parts").format(
                figure=check.figure, batch=training.batch_size, parts=training.accumulate
            )
            command = fix.command(run) if check.status != "ok" else ""
            yield replace(check, id=f"memory.{stage}", figure=size, fix=command)
