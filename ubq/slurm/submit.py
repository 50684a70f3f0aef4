"""Hand a run to Slurm, or a command in parts."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import run_command
from ubq.durable import write_atomic
from ubq.errors import UbqError
from ubq.jobs.frozen import freeze, write_config, write_sources
from ubq.jobs.owner import unwritable
from ubq.jobs.plan import Selection, check_discards
from ubq.jobs.run import dry_run, pipeline, remove_refused
from ubq.jobs.state import RunState, StageState, write_state
from ubq.slurm.batch import batch_script
from ubq.slurm.queue import hand_in
from ubq.slurm.record import SCRIPT, Record, check_free, write_record
from ubq.slurm.request import Request
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.config.schema import Config

PARTS_FOLDER = "slurm"
"""Below the folder of the runs: scripts and output of commands in parts."""


@dataclass(frozen=True)
class Submitted:
    """A batch script, and the job it became."""

    script: Path
    text: str
    job: str = ""
    """Empty where it was not handed in."""


def submit_run(
    config: Config,
    paths: RunPaths,
    preset: str,
    request: Request,
    *,
    provenance: Mapping[str, str],
    yes: bool = False,
    preflight: bool = True,
    hand: bool = True,
) -> Submitted:
    """Write a run's configuration and its batch script, and hand that in; the job goes on with the run.

    Args:
        config: resolved.
        paths: of the run, new or not.
        preset: name of the preset it came from.
        request: nodes, time and the rest. One process for each GPU; without any, ``distributed.nproc`` on each node.
        provenance: where the values of ``config`` came from.
        yes: work may be discarded.
        preflight: check first what the node has.
        hand: whether to hand it in.

    Raises:
        HeldError: the run is running, or in Slurm's queue.
        UbqError: it cannot be submitted; what there was is as it was, and a new run leaves no folder.
    """
    run = paths.root
    check_free(run)
    fresh = not (paths.state.exists() or paths.config.exists())
    tasks = request.gpus_per_node or config.distributed.nproc
    config = config.model_copy(update={"distributed": config.distributed.model_copy(update={"nproc": tasks})})
    if not config.threads and request.cpus_per_task:
        config = config.model_copy(update={"threads": request.cpus_per_task * tasks})
    selection = Selection(yes=yes)
    check_discards(dry_run(config, paths, preset=preset, selection=selection), selection, pipeline())
    words = [sys.executable, "-m", "ubq", "resume", str(run.absolute())]
    words += [*(["--yes"] if yes else []), *([] if preflight else ["--no-preflight"])]
    text = batch_script(request, run.absolute().name, words, run.absolute() / "slurm-%j.out", tasks)
    try:
        frozen = freeze(config, paths, preset, on_this_machine=False)
        with _writing(run):
            write_sources(paths, config, provenance, frozen)
            write_config(paths, frozen)
            if not paths.state.exists():
                stages = [StageState(stage.name) for stage in pipeline() if stage.applies(config)]
                state = RunState(run.absolute().name, preset, next_command=run_command("resume", run), stages=stages)
                write_state(paths.state, state)
        done = _submit(run, SCRIPT, text, hand)
    except UbqError:
        if fresh:
            (run / SCRIPT).unlink(missing_ok=True)
            remove_refused(paths)
        raise
    if done.job:
        write_record(run, Record(done.job, request))
    return done


def submit_parts(
    name: str, words: Sequence[str], parts: int, runs_dir: Path, request: Request, hand: bool = True
) -> Submitted:
    """Write and hand in the batch script of an array whose tasks each do one part of a command that takes ``--shard``.

    Args:
        name: of the job and its files.
        words: the command without ``ubq``.
        parts: tasks of the array.
        runs_dir: the script and what its tasks print go to ``slurm/`` in there.
        request: nodes, time and the rest, for each task.
        hand: whether to hand it in.
    """
    folder = runs_dir.absolute() / PARTS_FOLDER
    command_words = [sys.executable, "-m", "ubq", *words]
    part = f'--shard "$SLURM_ARRAY_TASK_ID/{parts}"'
    text = batch_script(request, name, command_words, folder / f"{name}-%A_%a.out", 1, parts, part)
    return _submit(folder, f"{name}.sh", text, hand)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make a folder, and write into it in the block."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise unwritable(folder, error) from error


def _submit(folder: Path, name: str, text: str, hand: bool) -> Submitted:
    script = folder / name
    with _writing(folder):
        write_atomic(script, text.encode(errors="surrogateescape"))
    if not hand:
        return Submitted(script, text)
    return Submitted(script, text, hand_in(script))
