"""``report.html`` of a run: where its files lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ubq.stages.paths import RunPaths

ANALYSIS = "quantization_analysis.json"


def write_report_page(paths: RunPaths, state: Mapping[str, Any], out: Path) -> None:
    """Write the page of a run, whatever of it there is.

    Args:
        paths: of the run.
        state: its state, as ``ubq status --json`` has it.
        out: HTML file to write.

    Raises:
        OSError: it cannot be written.
    """
    from ubq.verify.page.facts import RunFiles
    from ubq.verify.page.page import write_page

    analyses = tuple(paths.checkpoints(stage) / ANALYSIS for stage in ("qat-decoders", "qat-diffusion", "export"))
    files = RunFiles(
        root=paths.root,
        config=paths.config,
        sources=paths.sources,
        events=paths.events,
        metrics=paths.metrics,
        exported=paths.exported,
        analyses=analyses,
    )
    write_page(files, state, out)
