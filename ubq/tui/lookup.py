"""Questions that need torch or numpy, answered by a process of their own: ``python -m ubq.tui.lookup``.

One JSON request a line on stdin, ``{"ask": "estimate", "file": …, "text": …}``, and one JSON answer a line
on stdout. It ends when stdin does, that is, with the user interface.

``python -m ubq.tui.lookup presets`` writes ``preset_facts.json``, which the start screen shows.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.stages.estimate import estimate
from ubq.tui.cost import FACTS_FILE, bytes_text

if TYPE_CHECKING:
    from ubq.config.load import Loaded
    from ubq.config.schema import Config


def _figures(config: Config, available: int = 0) -> dict[str, Any]:
    from ubq.jobs.run import pipeline

    return estimate(config, [stage.name for stage in pipeline() if stage.applies(config)], available)


def preset_facts() -> dict[str, Any]:
    """What the start screen says of each preset, by name."""
    from ubq.config import presets
    from ubq.config.load import load_config

    facts_of = {}
    for name in presets.names():
        facts = _figures(load_config(name, isolated=True, environ={}).config)
        facts_of[name] = {"memory_bytes": max(facts.pop("memory").values()), **facts}
    return facts_of


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    from ubq.config.load import load_config

    loaded = load_config(project_file=Path(request["file"]), project_text=request["text"])
    return _ASK[request["ask"]](loaded)


def _estimate(loaded: Loaded) -> dict[str, Any]:
    from ubq.jobs.machine import existing
    from ubq.stages.device import device_memory

    config = loaded.config
    on_gpu, available = device_memory(config.device)
    free = shutil.disk_usage(existing(Path(config.run.dir))).free
    return {**_figures(config, available), "available": available, "free": free, "on_gpu": on_gpu}


def _preflight(loaded: Loaded) -> dict[str, Any]:
    """The checks a run starts with, and what each stage would do."""
    from ubq.jobs.checks.preflight import check_run
    from ubq.jobs.run import dry_run, pipeline
    from ubq.stages.paths import RunPaths

    config = loaded.config
    paths = RunPaths(Path(config.run.dir) / (config.run.name or "run"))
    planned = dry_run(config, paths, preset=loaded.preset)
    todo = [s for s in pipeline() if any(p.name == s.name and p.action != "up to date" for p in planned)]
    return {
        "checks": [c.as_dict() for c in check_run(config, paths, todo)],
        "plan": [p.as_dict() for p in planned],
        "exists": paths.root.exists(),
    }


def _data(loaded: Loaded) -> dict[str, Any]:
    """Files, pairs, shapes and data set, from the files' headers; ``bytes`` of the samples, none of them read."""
    import numpy as np

    from ubq.data.files import with_data_found
    from ubq.data.pairs import open_pairs
    from ubq.jobs.checks.check import Check
    from ubq.jobs.checks.configuration import data

    config = with_data_found(loaded.config)
    checks, total = list(data(config, None)), 0
    if config.data.train_velocity and not any(check.failed for check in checks):
        split = open_pairs(config.data, config.seed)
        pairs = [pair for side in (split.train, split.val) for pair in side.files]
        files = {a.path: a for pair in pairs for a in (pair.velocity, pair.seismic) if a}
        total = sum(a.samples * a.sample_bytes for a in files.values())
        shapes = sorted({f"{np.dtype(a.dtype).name} {a.sample_shape}" for a in files.values()}, key=len)
        figure = _("{count} files, {size}; samples {shapes}")
        figure = figure.format(count=len(files), size=bytes_text(total), shapes=", ".join(shapes))
        checks.insert(0, Check(id="data.shape", status="ok", figure=figure))
    return {"checks": [c.as_dict() for c in checks], "bytes": total}


def _content(loaded: Loaded) -> dict[str, Any]:
    """Every sample read, as the stage ``prepare`` will: damaged, implausible or doubled ones."""
    from ubq.data.files import with_data_found
    from ubq.data.validate import validate
    from ubq.jobs.checks.check import Check

    config = with_data_found(loaded.config)
    model = config.model
    shape = (model.sources, model.seismic_samples, model.receivers)
    report = validate(config.data, config.seed, seismic_shape=shape)
    checks = [Check(id="data.content", status="ok", figure=_("all samples read: {what}").format(what=report.summary()))]
    checks += [Check(id="data.content", status="warning", figure=w) for w in report.warnings]
    return {"checks": [c.as_dict() for c in checks]}


_ASK: Mapping[str, Callable[[Loaded], dict[str, Any]]] = {
    "estimate": _estimate,
    "preflight": _preflight,
    "data": _data,
    "content": _content,
}


def main() -> None:
    """Answer until stdin ends."""
    # Answers alone go to stdout; what a library prints goes nowhere.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        for line in sys.stdin:
            try:
                answer = _answer(json.loads(line))
            except UbqError as error:
                answer = {"error": error.message, "fix": error.fix, "told": True}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0], "fix": ""}
            print(json.dumps(answer, ensure_ascii=False), file=answers, flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["presets"]:
        FACTS_FILE.write_text(json.dumps(preset_facts(), indent=1) + "\n", encoding="utf-8")
    else:
        main()
