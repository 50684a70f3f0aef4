"""``ubq bench``: speed, measured on this machine; prints the tables of ``bench/README.md``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_args

import typer

from ubq.cli.completion import run_names
from ubq.cli.options import HERE, RunsDir
from ubq.cli.output import say, say_json
from ubq.cli.progress import progress
from ubq.config.runs import expanded
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.bench.subject import Subject

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True, add_completion=False)

Source = Annotated[
    str | None,
    typer.Argument(
        autocompletion=run_names,
        metavar="[RUN|FILE]",
        help="A run or an exported .pt; the newest run when absent. Not with --width.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")]
Backend = Annotated[str, typer.Option(help="Integer engine; default: the file's own, x86 for --width.")]
Width = Annotated[int, typer.Option(min=0, help="Measure random weights with a U-Net of so many channels, and no run.")]
Mults = Annotated[str, typer.Option(help="With --width: multipliers of the U-Net's four levels.")]


class Result(Protocol):
    """What every measurement returns."""

    def to_dict(self) -> dict[str, Any]: ...
    def to_markdown(self) -> str: ...


@app.command()
def sample(
    source: Source = None,
    width: Width = 0,
    mults: Mults = "1,2,2,2",
    solver: Annotated[
        str, typer.Option(help="With --width: ddpm, ddim or dpmpp2m; default: the presets' distilled steps.")
    ] = "",
    steps: Annotated[int, typer.Option(min=0, help="Sampling steps of the file; 0: its default.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which both take their turn.")] = 3,
    maps: Annotated[int, typer.Option(min=0, help="Maps drawn to measure quality; 0: none.")] = 256,
    threads: Threads = 1,
    backend: Backend = "",
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """One pair, whole call: the exported file against float with every diffusion step."""
    from ubq.bench.sample import measure_sample
    from ubq.bench.timing import cpu_threads

    with (
        cpu_threads(threads) as count,
        _subject(source, runs_dir, width, mults, solver, steps, backend, narrow=False) as subject,
        progress(_("measuring"), _("calls")) as show,
    ):
        result = measure_sample(
            subject, rounds=rounds, threads=count, steps=steps, maps=max(maps, 2) if maps else 0, progress=show
        )
    _print(result, as_json)


@app.command()
def kernel(
    source: Source = None,
    width: Width = 0,
    mults: Mults = "1,2,2,2",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 9,
    onnxruntime: Annotated[bool, typer.Option(help="Also ONNX Runtime's own quantisation of the float U-Net.")] = True,
    threads: Threads = 1,
    backend: Backend = "",
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """One U-Net step: float, int8, the int8 matrix products alone, and ONNX Runtime's quantisation."""
    from ubq.bench.kernel import measure_kernel
    from ubq.bench.timing import cpu_threads

    with (
        cpu_threads(threads) as count,
        _subject(source, runs_dir, width, mults, "dpmpp2m", 0, backend, narrow=True) as subject,
        progress(_("measuring"), _("calls")) as show,
    ):
        result = measure_kernel(subject, rounds=rounds, threads=count, onnxruntime=onnxruntime, progress=show)
    _print(result, as_json)


@app.command()
def steps(
    run: Annotated[
        str | None, typer.Argument(autocompletion=run_names, metavar="[RUN]", help="The newest run when absent.")
    ] = None,
    maps: Annotated[int, typer.Option(min=2, help="Maps drawn at every point.")] = 512,
    counts: Annotated[str, typer.Option("--steps", help="Step counts to measure.")] = "4,6,8,10,12,15,20,30,50",
    solvers: Annotated[str, typer.Option(help="Solvers to measure.")] = "dpmpp2m,ddim,ddpm",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the start noise, the same for every point.")] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG to draw; default: bench-steps.png in the run's folder.")] = None,
    threads: Threads = 1,
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """Distance to held-out maps against sampling steps, and the fewest steps that lose nothing."""
    from ubq.jobs.status import find_run

    folder, step_counts = find_run(run, runs_dir), _numbers(counts, "--steps")
    names = [name.strip() for name in solvers.split(",") if name.strip()]
    for name in names:
        _check_solver(name, "--solvers")
    from ubq.bench.steps import draw_curves, measure_steps
    from ubq.bench.timing import cpu_threads

    with cpu_threads(threads), progress(_("drawing"), _("batches")) as show:
        result = measure_steps(folder, maps=maps, seed=seed, solvers=names, steps=step_counts, progress=show)  # type: ignore[arg-type]
    picture = out or folder / "bench-steps.png"
    draw_curves(result, picture)
    _print(result, as_json, picture=str(picture))
    if not as_json:
        say(_("picture: {path}").format(path=picture), err=True)


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="Preset whose model and batch sizes are trained.")] = "demo",
    stages: Annotated[str, typer.Option(help="Stages to measure, in the pipeline's words; empty: all.")] = "",
    files: Annotated[str, typer.Option(help="Data files of each measurement.")] = "1,4,16",
    train_steps: Annotated[int, typer.Option("--steps", min=2, help="Training steps of each measurement.")] = 12,
    gathers: Annotated[int, typer.Option(min=1, max=500, help="Gathers in a seismic file; OpenFWI has 500.")] = 40,
    threads: Threads = 1,
    nproc: Annotated[int, typer.Option(min=1, help="Compare so many processes that share the threads with one.")] = 1,
    device: Annotated[str, typer.Option(help="Device that trains: cpu, cuda or cuda:N.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Time to the first step, steps/s and peak memory of every training stage, beside a plain loop."""
    from ubq.bench.train import STAGES, measure_training

    names = [s.strip() for s in stages.split(",") if s.strip()] or list(STAGES)
    for name in names:
        if name not in STAGES:
            raise UsageError(
                _("there is no training stage {name}").format(name=name),
                _("use --stages {names}").format(names=",".join(STAGES)),
            )
    with progress(_("measuring"), _("processes")) as show:
        result = measure_training(
            preset, names, _numbers(files, "--files"), steps=train_steps, gathers=gathers, threads=threads,
            processes=nproc, device=device, progress=show,
        )  # fmt: skip
    _print(result, as_json)


@app.command()
def share(
    preset: Annotated[str, typer.Option(help="Preset whose autoencoder is trained.")] = "demo",
    busy: Annotated[str, typer.Option(help="Busy processes beside it, numbers with commas.")] = "1,2",
    waits: Annotated[
        str, typer.Option(help="Turns for which a thread waits awake (GOMP_SPINCOUNT), with commas.")
    ] = "1,100,1000,10000",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the training.")] = 2,
    train_steps: Annotated[int, typer.Option("--steps", min=2, help="Training steps of each measurement.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 3,
    as_json: Json = False,
) -> None:
    """What a training keeps of its rate beside other work, by how its threads wait for each other."""
    from ubq.bench.share import measure_share

    counts = _numbers(busy, "--busy"), _numbers(waits, "--waits")
    with progress(_("measuring"), _("processes")) as show:
        result = measure_share(
            preset, counts[1], counts[0], threads=threads, steps=train_steps, rounds=rounds, progress=show
        )
    _print(result, as_json)


@app.command()
def maps(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The newest run when absent.")] = None,
    count: Annotated[int, typer.Option("--maps", min=2, help="Maps drawn from each model.")] = 512,
    sampling_steps: Annotated[
        int, typer.Option("--steps", min=0, help="Sampling steps of the file; 0: its default.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="PNG to draw; default: bench-maps.png in the run's folder.")] = None,
    threads: Threads = 1,
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """Lattice, variograms, cuts and distance of a run's maps, each beside what real maps score."""
    from ubq.jobs.status import find_run

    folder = find_run(run, runs_dir)
    from ubq.bench.maps import draw_variograms, measure_maps
    from ubq.bench.timing import cpu_threads

    with cpu_threads(threads), progress(_("drawing"), _("batches")) as show:
        result = measure_maps(folder, maps=count, steps=sampling_steps, progress=show)
    picture = out or folder / "bench-maps.png"
    draw_variograms(result, picture)
    _print(result, as_json, picture=str(picture))
    if not as_json:
        say(_("picture: {path}").format(path=picture), err=True)


@app.command()
def runtimes(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=run_names, metavar="[RUN|FILE...]", help="A run, or files of one model (.pt, .onnx, .pte)."
        ),
    ] = None,
    sampling_steps: Annotated[
        int, typer.Option("--steps", min=0, help="Sampling steps of the files; 0: their default.")
    ] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 7,
    threads: Threads = 1,
    runs_dir: RunsDir = HERE,
    as_json: Json = False,
) -> None:
    """One pair by each runtime that a model was exported for."""
    files = _exported_files(sources or [], runs_dir)
    from ubq.bench.runtimes import measure_runtimes

    with progress(_("measuring"), _("calls")) as show:
        result = measure_runtimes(files, rounds=rounds, steps=sampling_steps, threads=threads, progress=show)
    _print(result, as_json)


@app.command()
def forward(
    maps: Annotated[int, typer.Option(min=2, help="Maps modelled by every process.")] = 100,
    workers: Annotated[str, typer.Option(help="Numbers of processes; empty: 1 and one for each core.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take their turn.")] = 3,
    as_json: Json = False,
) -> None:
    """Pairs per second of forward modelling, and how it scales over the cores."""
    from ubq.bench.forward import measure_forward
    from ubq.cpu import cores
    from ubq.data.forward import require_deepwave

    require_deepwave()
    counts = _numbers(workers, "--workers") if workers else sorted({1, cores()})
    with progress(_("measuring"), _("calls")) as show:
        result = measure_forward(counts, maps=maps, rounds=rounds, progress=show)
    _print(result, as_json)


def _print(result: Result, as_json: bool, **more: str) -> None:
    if as_json:
        say_json({**result.to_dict(), **more})
    else:
        say(result.to_markdown())


def _exported_files(sources: list[str], runs_dir: Path) -> list[Path]:
    """Exported files that a command line means: those of a run, TorchScript first, or as named."""
    from ubq.runtime import SUFFIXES

    if sources and all(Path(s).suffix in SUFFIXES for s in sources):
        return [Path(expanded(s)) for s in sources]
    if len(sources) > 1:
        raise UsageError(
            _("{names}: wanted is one run, or files of one model").format(names=" ".join(sources)),
            _("see: {command} --help").format(command="ubq bench runtimes"),
        )
    from ubq.cli.sample import exported_file

    first = exported_file(sources[0] if sources else None, runs_dir)
    others = (first.with_suffix(suffix) for suffix in SUFFIXES)
    return [first, *(file for file in others if file != first and file.is_file())]


@contextmanager
def _subject(
    source: str | None, runs_dir: Path, width: int, mults: str, solver: str, steps: int, backend: str, narrow: bool
) -> Iterator[Subject]:
    """What a command line means: a run, an exported file, or random weights of a width."""
    if width and source:
        raise UsageError(_("{source} and --width name two models").format(source=source), _("leave one of them out"))
    levels = _numbers(mults, "--mults")
    if solver:
        _check_solver(solver, "--solver")
    if not width:
        if source and (Path(expanded(source)).is_file() or source.endswith(".pt")):
            from ubq.bench.subject import subject_of_file

            yield subject_of_file(Path(expanded(source)), backend)
            return
        from ubq.jobs.status import find_run

        run = find_run(source, runs_dir)
        from ubq.bench.subject import subject_of_run

        yield subject_of_run(run, backend)
        return
    if len(levels) != 4 or width % 8:
        raise UsageError(
            _("the U-Net has four levels and a width that 8 divides, not {width} and {mults}").format(
                width=width, mults=mults
            ),
            "--width 512 --mults 1,2,2,2",
        )
    from ubq.bench.subject import default_backend, export_config, subject_of_sizes
    from ubq.model import ModelSizes

    sizes = ModelSizes(encoder_dim=width, dim_mults=tuple(levels))
    with tempfile.TemporaryDirectory(prefix="ubq-bench-") as folder:
        yield subject_of_sizes(
            sizes,
            export_config(solver, steps),
            default_backend(backend),
            Path(folder),
            narrow_decoders=narrow,
        )


def _numbers(text: str, option: str) -> list[int]:
    """Positive numbers with commas between them."""
    try:
        result = [int(word) for word in text.split(",")]
    except ValueError:
        result = []
    if not result or min(result) < 1:
        raise UsageError(
            _("{option} {text}: wanted are positive numbers with commas between them").format(option=option, text=text),
            _("see: {command} --help").format(command="ubq bench"),
        )
    return result


def _check_solver(name: str, option: str) -> None:
    from ubq.config.schema import Solver

    solvers = get_args(Solver)
    if name not in solvers:
        raise UsageError(
            _("there is no solver {name}").format(name=name),
            _("use {option} {names}").format(option=option, names=_(" or ").join(solvers)),
        )
