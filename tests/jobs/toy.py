"""A pipeline without torch that behaves like training: what the kill tests run in real processes.

Its state evolves step by step from (seed, stage, step), checkpoints hold all of it, metric rows follow
it, and the last file is a digest of it. Run as a program: ``python toy.py FOLDER [--seed N] ...``.

With a stage's name in ``TOY_HOLD``, that stage waits until the run's folder has a file ``go`` or a stop is
requested: a test that needs a run at work need not be faster than it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from ubq.config.schema import Config
from ubq.errors import EXIT_MARK_FAILED, UbqError
from ubq.jobs.console import PlainConsole
from ubq.jobs.plan import Selection
from ubq.jobs.run import start_run
from ubq.stages.base import Stage, StageContext, Stopped
from ubq.stages.paths import RunPaths
from ubq.training.store import CheckpointStore

HELD_STEP = 12
"""From this step on a held training stage waits; checkpoints are made every 10."""


def held(context: StageContext, name: str) -> bool:
    """Whether a stage is to wait."""
    go = context.paths.root / "go"
    return os.environ.get("TOY_HOLD") == name and not go.exists() and not context.stop_requested()


def _dump(payload: dict[str, Any], file: Any) -> None:
    file.write(json.dumps(payload).encode())


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


class ToyStage(Stage):
    """Evolve a hash chain that starts from the outputs of the stages before."""

    steps = 40
    key: ClassVar[str] = "train.autoencoder"

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.step_seconds = step_seconds

    def total(self, config: Config) -> int:
        table: Any = config
        for part in self.key.split("."):
            table = getattr(table, part)
        return table.steps or table.epochs

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.checkpoints(self.name) / "final.json"]

    def run(self, context: StageContext) -> None:
        config, total = context.config, self.total(context.config)
        store = CheckpointStore(
            context.store.folder,
            context.store.keep,
            warn=context.store.warn,
            before_commit=context.store.before_commit,
            dump=_dump,
            load=_load,
        )
        found = store.latest()
        if found:
            step, payload = found
            chain, loss = payload["chain"], payload["loss"]
        else:
            step, loss = 0, 1.0
            chain = hashlib.sha256(f"{config.seed} {self.name}".encode()).hexdigest()
            for name in self.after:
                chain = hashlib.sha256(chain.encode() + self.read(context.paths, name)).hexdigest()

        def save() -> None:
            # The padding makes a save take a moment, so that kills fall into it too.
            store.save(step, {"chain": chain, "loss": loss, "padding": "0" * 200_000})
            context.checkpoint_saved(step)

        while step < total:
            chain = hashlib.sha256(f"{chain} {step}".encode()).hexdigest()
            loss = 0.9 * loss + 0.1 * int(chain[:8], 16) / 2**32
            step += 1
            context.metrics(step, loss=loss)
            context.progress(step, total, loss=loss)
            while step >= HELD_STEP and held(context, self.name):
                time.sleep(0.01)
            stopping = context.stop_requested()
            if stopping or step == total or step % config.run.checkpoint_steps == 0:
                save()
            if stopping:
                raise Stopped
            if self.step_seconds:
                time.sleep(self.step_seconds)
        folder = context.paths.checkpoints(self.name)
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / "final.json.tmp"
        temporary.write_text(json.dumps({"weights": chain}))
        os.replace(temporary, folder / "final.json")

    def read(self, paths: RunPaths, name: str) -> bytes:
        return (paths.checkpoints(name) / "final.json").read_bytes()


class Autoencoder(ToyStage):
    name = "autoencoder"
    reads = ("train.autoencoder", "seed")


class Diffusion(ToyStage):
    name = "diffusion"
    reads = ("train.diffusion", "seed", "data")
    after = ("autoencoder",)
    key = "train.diffusion"


class Qat(ToyStage):
    name = "qat"
    reads = ("qat.epochs", "seed")
    after = ("diffusion",)
    key = "train.seismic"

    def total(self, config: Config) -> int:
        return config.qat.epochs


class Export(Stage):
    """No steps and no checkpoints: write the weights' digest."""

    name = "export"
    after = ("autoencoder", "qat")

    def outputs(self, config: Config, paths: RunPaths) -> Iterable[Path]:
        return [paths.exported / "manifest.json"]

    def run(self, context: StageContext) -> None:
        while held(context, self.name):
            time.sleep(0.01)
        if context.stop_requested():
            raise Stopped
        paths = context.paths
        digest = hashlib.sha256()
        for name in self.after:
            digest.update((paths.checkpoints(name) / "final.json").read_bytes())
        paths.exported.mkdir(parents=True, exist_ok=True)
        temporary = paths.exported / "manifest.tmp"
        temporary.write_text(json.dumps({"weights_sha256": digest.hexdigest()}))
        os.replace(temporary, paths.exported / "manifest.json")


class MarkFailed(UbqError):
    """What ``Verify`` ends with."""

    exit_code = EXIT_MARK_FAILED


class Verify(Export):
    """Makes what ``Export`` makes, and finds that it is no good."""

    def run(self, context: StageContext) -> None:
        super().run(context)
        raise MarkFailed("file_size: 3 GB, not below 2 GB", "choose a smaller preset")


def stages(step_seconds: float = 0.0) -> list[Stage]:
    return [Autoencoder(step_seconds), Diffusion(step_seconds), Qat(step_seconds), Export()]


def failing(error: BaseException, after_step: int = 12) -> list[Stage]:
    """The toy pipeline; ``diffusion`` raises after a step that no checkpoint holds."""

    class Fails(Diffusion):
        def run(self, context: Any) -> None:
            real = context.progress

            def progress(step: int, steps: int, **figures: float | str) -> None:
                real(step, steps, **figures)
                if step == after_step:
                    raise error

            context.progress = progress
            super().run(context)

    first, _diffusion, *rest = stages()
    return [first, Fails(), *rest]


def toy_config(seed: int = 0, epochs: int = 40, checkpoint_steps: int = 10, **qat: int) -> Config:
    return Config.model_validate(
        {
            "seed": seed,
            "threads": 1,
            "run": {"checkpoint_steps": checkpoint_steps, "checkpoint_minutes": 0.0},
            "train": {"autoencoder": {"epochs": epochs}, "diffusion": {"epochs": epochs}},
            "qat": {"epochs": epochs, **qat},
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--step-seconds", type=float, default=0.0)
    parser.add_argument("--until", default="")
    given = parser.parse_args()
    try:
        return start_run(
            toy_config(given.seed, given.epochs),
            RunPaths(given.folder),
            preset="toy",
            selection=Selection(until=given.until),
            preflight=False,
            stages=stages(given.step_seconds),
            console=PlainConsole(sys.stdout, interval=0.2),
        )
    except UbqError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
