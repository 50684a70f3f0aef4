"""``ubq sample``: draw pairs from an exported file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from ubq.cli.progress import progress
from ubq.errors import UsageError
from ubq.i18n import gettext as _

PICTURE = "samples.png"


def sample(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[FILE|RUN]", help="An exported .pt file or a run; the newest run when absent."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Pairs to draw.")] = 4,
    steps: Annotated[
        int, typer.Option(min=0, help="Sampling steps, one of those the file offers; 0: its default.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same pairs.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("samples"),
    batch: Annotated[int, typer.Option(min=0, help="Pairs drawn at once; 0: as the free memory allows.")] = 0,
    backend: Annotated[str, typer.Option(help="Integer engine; default: the one the file was made for.")] = "",
    runs_dir: Annotated[Path, typer.Option("--runs-dir", help="Folder that holds the runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Draw pairs of velocity map and seismic into files laid out as OpenFWI's, 500 pairs in each."""
    path = exported_file(source, runs_dir)
    import numpy as np
    import torch

    from ubq.data.normalization import Normalization
    from ubq.export.sampling import fitting_batch, load_exported, write_pairs
    from ubq.verify.picture import COLUMNS, draw_pairs

    exported = load_exported(path, backend)
    chosen_steps = exported.check_steps(steps)
    chosen_batch = batch or fitting_batch(exported)
    started = time.monotonic()
    with progress(_("sampling"), _("pairs")) as show:
        show(0, count)
        files = write_pairs(exported, out, count, chosen_steps, seed, chosen_batch, show)
    seconds = time.monotonic() - started
    picture = out / PICTURE
    velocity, seismic = (np.load(file, mmap_mode="r")[:COLUMNS] for file in files[:2])
    ranges = Normalization.from_dict(exported.facts["normalization"])
    draw_pairs(picture, torch.from_numpy(velocity.copy()), torch.from_numpy(seismic.copy()), None, ranges)
    result = {
        "file": str(path),
        "out": str(out),
        "files": [str(f) for f in files],
        "picture": str(picture),
        "count": count,
        "steps": chosen_steps,
        "solver": exported.facts["solver"],
        "seed": seed,
        "batch": chosen_batch,
        "backend": exported.backend,
        "seconds": round(seconds, 3),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(
        _("{count} pairs in {folder}: {solver}, {steps} steps, {seconds:.3g} s a pair").format(
            count=count, folder=out, solver=result["solver"], steps=chosen_steps, seconds=seconds / count
        )
    )
    for file in files:
        typer.echo(f"  {file}")
    typer.echo(f"  {picture}")


def exported_file(source: str | None, runs_dir: Path) -> Path:
    """The ``.pt`` file that a person means by a path or by a run.

    Raises:
        UsageError: there is no such file or run, or the run has exported nothing yet.
    """
    if source and (Path(source).is_file() or source.endswith(".pt")):
        return Path(source)
    from ubq.export.manifest import MANIFEST, read_manifest
    from ubq.jobs.status import find_run
    from ubq.stages.paths import RunPaths

    run = find_run(source, runs_dir)
    manifest = RunPaths(run).exported / MANIFEST
    if not manifest.is_file():
        raise UsageError(
            _("the run {run} has exported no model yet").format(run=run.name),
            _("go on with it: ubq resume {run} --runs-dir {folder}").format(run=run.name, folder=run.parent),
        )
    return manifest.with_name(f"{read_manifest(manifest)['name']}.pt")
