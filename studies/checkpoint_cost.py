"""Share of a finished run's training time that checkpoints and metric rows took.

``python studies/checkpoint_cost.py RUN_FOLDER``. Each stage's own last checkpoint is saved again (hash, fsync and
rename included), and each of its metric rows is written again; the median is multiplied by how often the run did it.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ubq.durable import LineFile, read_rows
from ubq.stages.paths import RunPaths
from ubq.training.store import CheckpointStore

REPEATS = 3


def seconds(action: Callable[..., object], *arguments: object) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - begin


def main() -> None:
    paths = RunPaths(Path(sys.argv[1]))
    rows, events = list(read_rows(paths.metrics)), list(read_rows(paths.events))
    spent = total = 0.0
    print("| stage | s | checkpoints | s each | rows | share |\n|---|---|---|---|---|---|")
    for stage in json.loads(paths.state.read_text())["stages"]:
        found = CheckpointStore(paths.checkpoints(stage["name"])).latest()
        if found is None:
            continue
        with tempfile.TemporaryDirectory(dir=paths.root) as folder:
            store, line_file = CheckpointStore(Path(folder)), LineFile(Path(folder) / "rows.jsonl")
            each = statistics.median(seconds(store.save, i, found[1]) for i in range(1, REPEATS + 1))
            own = [r for r in rows if r["stage"] == stage["name"]]
            writing = sum(seconds(line_file.append, r) for r in own)
            line_file.close()
        saves = sum(e.get("event") == "checkpoint" and e.get("stage") == stage["name"] for e in events) or 1
        cost = saves * each + writing
        spent, total = spent + cost, total + stage["seconds"]
        figures = f"{stage['seconds']:.0f} | {saves} | {each:.2f} | {len(own)} | {100 * cost / stage['seconds']:.2f} %"
        print(f"| {stage['name']} | {figures} |")
    print(f"| all training | {total:.0f} | | | {len(rows)} | {100 * spent / total:.2f} % |")


if __name__ == "__main__":
    main()
