"""``ubq sample``: draw pairs from an exported file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ubq.cli.completion import run_names
from ubq.cli.options import HERE, RunsDir, ShardText
from ubq.cli.output import say, say_json
from ubq.cli.progress import progress
from ubq.config.runs import expanded, run_command
from ubq.errors import UsageError
from ubq.i18n import gettext as _

PICTURE = "samples.png"
MOST_IN_A_BATCH = 32
_MEMORY_SHARE = 0.25
"""Part of the free memory that one batch may take."""
FACTS = "samples.json"
"""Beside the pairs: what ``--json`` prints."""
DRAWN = 4
"""Pairs in the picture."""


class Gathers(StrEnum):
    """``ubq.runtime.Gathers`` as typer wants it."""

    wave = "wave"
    decoder = "decoder"


def sample(
    source: Annotated[
        str | None,
        typer.Argument(
            autocompletion=run_names,
            metavar="[FILE|RUN]",
            help="An exported file (.pt, .onnx, .pte) or a run; the newest run when absent.",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Pairs to draw.")] = 4,
    steps: Annotated[
        int, typer.Option(min=0, help="Sampling steps, one of those the file offers; 0: its default.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same pairs.")] = 0,
    gathers: Annotated[
        Gathers, typer.Option(help="How the gathers are made: by the wave equation over each map, or by the decoder.")
    ] = Gathers.wave,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("samples"),
    batch: Annotated[int, typer.Option(min=0, help="Pairs drawn at once; 0: as the free memory allows.")] = 0,
    backend: Annotated[str, typer.Option(help="Integer engine; default: the one the file was made for.")] = "",
    shard: ShardText = "",
    runs_dir: RunsDir = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Draw pairs of velocity map and seismic into files laid out as OpenFWI's, 500 pairs in each."""
    from ubq.data.shard import Shard

    part = Shard.parse(shard)
    path = exported_file(source, runs_dir)
    import numpy as np

    from ubq.data.content import content_of
    from ubq.data.normalization import Normalization
    from ubq.data.writing import write_pairs
    from ubq.durable import dump_json, write_atomic
    from ubq.runtime import SUFFIXES, load
    from ubq.runtime.wave import WaveEquation
    from ubq.verify.picture import draw_pairs, rows_of

    model = load(path, backend=backend)
    chosen_steps, how = model.check_steps(steps), model.check_gathers(gathers.value)
    chosen_batch = batch or fitting_batch(model.facts)
    acquisition = model.facts.get("acquisition")
    facts = {
        "file": str(path),
        "content": content_of(path),
        "count": count,
        "steps": chosen_steps,
        "solver": model.facts["solver"],
        "seed": seed,
        "gathers": how,
        "acquisition": acquisition if how == "wave" else None,
        "runtime": SUFFIXES[path.suffix],
        "backend": getattr(model, "backend", None),
    }
    keep = not part.whole and _begun(out, facts)

    def begin() -> None:
        if not part.whole:
            out.mkdir(parents=True, exist_ok=True)
            write_atomic(out / FACTS, dump_json(facts, indent=2))

    started = time.monotonic()
    with progress(_("sampling"), _("pairs")) as show:
        show(0, count)
        files = write_pairs(model, out, count, chosen_steps, seed, chosen_batch, how, show, part, keep, begin)
    seconds = time.monotonic() - started
    picture = out / PICTURE if part.number == 1 else None
    if picture:
        velocity, seismic = (np.load(file, mmap_mode="r")[:DRAWN] for file in files[:2])
        solver = WaveEquation(**acquisition) if acquisition else None
        rows = rows_of("generated", velocity, solver, **{"decoded" if how == "decoder" else "modelled": seismic})
        draw_pairs(picture, rows, Normalization.from_dict(model.facts["normalization"]))
    result = {
        **facts,
        "out": str(out),
        "files": [str(f) for f in files],
        "picture": str(picture) if picture else None,
        "shard": str(part),
        "batch": chosen_batch,
        "seconds": round(seconds, 3),
    }
    if part.whole:
        write_atomic(out / FACTS, dump_json(result, indent=2))
    if as_json:
        say_json(result)
        return
    if part.whole:
        say(
            _("{count} pairs in {folder}: {solver}, {steps} steps, {seconds:.3g} s a pair").format(
                count=count, folder=out, solver=result["solver"], steps=chosen_steps, seconds=seconds / count
            )
        )
    else:
        say(_("part {shard}: {files} files in {folder}").format(shard=part, files=len(files), folder=out))
    for file in files:
        say(f"  {file}")
    if picture:
        say(f"  {picture}")


def _begun(out: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the parts of these very pairs are being drawn into a folder, so that what is there is theirs.

    Raises:
        UsageError: the folder holds other pairs.
    """
    from ubq.durable import plain, read_object

    begun = read_object(out / FACTS)
    if begun and any(begun.get(key) != plain(value) for key, value in facts.items() if key != "file"):
        raise UsageError(_("{folder} already holds other pairs").format(folder=out), _("choose another folder"))
    return bool(begun)


def exported_file(source: str | None, runs_dir: Path) -> Path:
    """The exported file that a person means by a path, or the ``.pt`` of a run.

    Raises:
        UsageError: there is no such file or run, or the run has exported nothing yet.
    """
    from ubq.runtime import SUFFIXES

    if source and (Path(expanded(source)).is_file() or Path(source).suffix in SUFFIXES):
        return Path(expanded(source))
    from ubq.export.manifest import MANIFEST, read_manifest
    from ubq.jobs.status import find_run
    from ubq.stages.paths import RunPaths

    run = find_run(source, runs_dir)
    manifest = RunPaths(run).exported / MANIFEST
    if not manifest.is_file():
        raise UsageError(
            _("the run {run} has exported no model yet").format(run=run.name),
            _("go on with it: {command}").format(command=run_command("resume", run)),
        )
    return manifest.with_name(f"{read_manifest(manifest)['name']}.pt")


def fitting_batch(facts: Mapping[str, Any]) -> int:
    """Latents to compute at once so that a batch takes at most a quarter of the free memory."""
    import psutil

    sizes = facts["model"]
    width = (sizes.get("unet_dim") or sizes["encoder_dim"]) * max(sizes["dim_mults"])
    # the widest level of the U-Net holds some forty activations
    each = 4 * 40 * width * sizes["encoder_dim"] // 2 ** (len(sizes["dim_mults"]) - 1)
    return min(max(int(_MEMORY_SHARE * psutil.virtual_memory().available) // each, 1), MOST_IN_A_BATCH)
