"""``ubq data``: look at a data set, synthesise velocity maps, model their seismic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ubq.cli.options import ShardText
from ubq.cli.output import say, say_json
from ubq.cli.progress import progress
from ubq.config.runs import command
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.data.shard import Shard

app = typer.Typer(help="Data sets: inspect, synthesise, forward model.", no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")]


@app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with velocity maps, or with pairs.")],
    seismic: Annotated[Path | None, typer.Option(help="Folder of the seismic files, where it is another.")] = None,
    as_json: Json = False,
) -> None:
    """Read every sample: shapes, ranges, family, damaged or missing files."""
    from ubq.data.validate import inspect_folder

    with progress(_("reading"), _("samples")) as show:
        report = inspect_folder(folder, seismic, show)
    if as_json:
        say_json(report.to_dict())
        return
    say(report.summary())
    say(_("family: {families}").format(families=_(" or ").join(report.families) or _("not known from the names")))
    width = max(len(file.path) for file in report.files)
    for file in report.files:
        shape = "x".join(map(str, file.shape))
        say(
            f"{file.path:<{width}}  {file.kind:<8}  {shape:<15}  {file.dtype}  {file.minimum:.6g} .. {file.maximum:.6g}"
        )
    for warning in report.warnings:
        say(_("warning: {warning}").format(warning=warning), err=True)


@app.command()
def synth(
    family: Annotated[str, typer.Option(help="Family to imitate: curvefault-a, flatvel-b, style-a, ...")],
    samples: Annotated[int, typer.Option(min=2, help="Maps in all; a tenth is held out.")],
    out: Annotated[Path, typer.Option(help="New folder.")],
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="The same seed gives the same maps.")] = 0,
    val_samples: Annotated[int, typer.Option(min=0, help="Maps held out; 0: a tenth.")] = 0,
    seismic: Annotated[bool, typer.Option("--seismic", help="Model the seismic too; needs deepwave.")] = False,
    workers: Workers = 0,
    shard: ShardText = "",
    as_json: Json = False,
) -> None:
    """Write synthetic velocity maps, files named and numbered as OpenFWI's."""
    from ubq.config.keys import did_you_mean
    from ubq.data.families import FAMILIES

    chosen = next((name for name in FAMILIES if name == family.lower().replace("_", "-")), None)
    if chosen is None:
        near = did_you_mean(family.lower(), list(FAMILIES))
        fix = _("did you mean {name}?").format(name=near) if near else ", ".join(FAMILIES)
        raise UsageError(_("{name} is not an OpenFWI family").format(name=family), fix)
    val = val_samples or max(1, round(samples / 10))
    if val >= samples:
        raise UsageError(
            _("{val} of {samples} samples held out leaves none for training").format(val=val, samples=samples),
            "--val-samples",
        )
    from ubq.data.forward import require_deepwave
    from ubq.data.shard import Shard
    from ubq.data.synthetic import write_synthetic

    part = Shard.parse(shard)
    if seismic and not part.whole:
        raise UsageError(
            _("--seismic models every file, so it does not go with --shard"),
            _("then: {command}").format(command=_forward_command(out, "--shard", shard)),
        )

    if seismic:
        require_deepwave()
    with progress(_("maps"), _("maps")) as show:
        files = write_synthetic(chosen, samples - val, val, seed, out, progress=show, shard=part)
    if seismic:
        _forward(out, out, workers, part)
    if as_json:
        result = {"family": chosen, "seed": seed, "train": samples - val, "val": val, "seismic": seismic}
        say_json({**result, "folder": str(out), "shard": str(part), "files": [str(f) for f in files]})
        return
    if not part.whole:
        return say(_("part {shard}: {files} files in {folder}").format(shard=part, files=len(files), folder=out))
    say(
        _("{train} training and {val} held-out {family}-like maps in {folder}").format(
            train=samples - val, val=val, family=chosen, folder=out
        )
    )
    if not seismic:
        say(_("next: {command}").format(command=_forward_command(out)))


def _forward_command(folder: Path, *options: str) -> str:
    return command("ubq", "data", "forward", "--velocity", str(folder), "--out", str(folder), *options)


@app.command()
def forward(
    velocity: Annotated[Path, typer.Option(help="Folder or file of velocity maps.")],
    out: Annotated[Path, typer.Option(help="Folder for the seismic files.")],
    workers: Workers = 0,
    shard: ShardText = "",
    as_json: Json = False,
) -> None:
    """Model the shot gathers of velocity maps, with OpenFWI's acquisition; resumable."""
    from ubq.data.shard import Shard

    part = Shard.parse(shard)
    maps, seconds = _forward(velocity, out, workers, part)
    if as_json:
        result = {"velocity": str(velocity), "out": str(out), "samples": maps, "seconds": round(seconds, 3)}
        say_json({**result, "shard": str(part)})
        return
    if not part.whole:
        return say(_("part {shard}: {maps} gathers in {folder}").format(shard=part, maps=maps, folder=out))
    say(_("{maps} gathers in {folder}").format(maps=maps, folder=out))
    run = command("ubq", "run", "--train-data", str(out), "--train-label", str(velocity))
    say(_("next: {command}").format(command=run))


def _forward(velocity: Path, out: Path, workers: int, shard: Shard) -> tuple[int, float]:
    """Number of maps, and the seconds it took. Exits where a signal stopped it."""
    from ubq.data.forward import forward_files
    from ubq.jobs.signals import StopSignals

    total, started = 0, time.monotonic()
    with (
        StopSignals(_("stopping; again to leave at once")) as signals,
        progress(_("forward modelling"), _("maps")) as show,
    ):

        def note(done: int, count: int) -> None:
            nonlocal total
            total = count
            show(done, count)

        finished = forward_files(velocity, out, workers, note, lambda: signals.received is not None, shard)
    if not finished:
        say(_("stopped; the same command goes on from here"), err=True)
        raise typer.Exit(signals.exit_code)
    return total, time.monotonic() - started
