"""A run of one small stage that trains: ``python tests/jobs/group_toy.py FOLDER``, alone or under torchrun.

``TOY_EVENT=STEP:RANK:WHAT`` has a rank, at its loss of that step and in the group's first start, be killed, fail, or
ask itself to stop.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from ubq.config.schema import Config, DiffusionTraining, RunConfig
from ubq.distributed import rank_info
from ubq.errors import StageError
from ubq.jobs.console import QuietConsole
from ubq.jobs.run import start_run
from ubq.stages.base import Stage, StageContext
from ubq.stages.loop import run_training
from ubq.stages.paths import RunPaths


class Fit(Stage):
    """Fits a line, with batch statistics."""

    name = "fit"
    trains = True
    reads = ("seed",)

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / "fit.pt"]

    def run(self, context: StageContext) -> None:
        import torch

        from tests.training.test_loop import Regression

        torch.set_num_threads(1)
        task = Regression()
        loss, steps = task.loss, [context.store.latest_step()]

        def eventful(samples, draws):  # type: ignore[no-untyped-def]
            happen(steps[0])
            steps[0] += 1
            return loss(samples, draws)

        task.loss = eventful  # type: ignore[method-assign]
        run_training(context, task, DiffusionTraining(steps=30, batch_size=5, lr=1e-2), torch.device("cpu"))
        torch.save(task.model.state_dict(), context.paths.checkpoints(self.name) / "fit.pt")


def happen(step: int) -> None:
    """What ``TOY_EVENT`` asks for."""
    at, rank, what = os.environ.get("TOY_EVENT", "-1:0:").split(":")
    info = rank_info()
    if step != int(at) or (info is not None and (info.rank != int(rank) or info.restarts)):
        return
    if what == "fail":
        raise StageError("the data of this host are gone", "mount them")
    os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGTERM)


if __name__ == "__main__":
    config = Config(device="cpu", threads=1, run=RunConfig(checkpoint_steps=5, log_every=1))
    sys.exit(start_run(config, RunPaths(Path(sys.argv[1])), stages=[Fit()], console=QuietConsole(), preflight=False))
