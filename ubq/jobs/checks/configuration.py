"""What the configuration asks for: keys, data, checkpoint, what data are synthesised with."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.durable import read_object
from ubq.errors import DataError, UbqError
from ubq.i18n import gettext as _
from ubq.i18n import joined, restored
from ubq.jobs.checks.check import Check
from ubq.stages.paths import RunPaths

if TYPE_CHECKING:
    from ubq.config.schema import Config
    from ubq.data.pairs import Split
    from ubq.stages.base import Stage
    from ubq.upstream.importer import ImportedModel


def parameters(config: Config) -> Iterator[Check]:
    """What is valid and still unlikely to be meant."""
    yield Check(
        id="parameters.valid",
        status="ok",
        figure=_("no mistakes"),
        why=_("a wrong value would cost a run"),
    )
    ptq = [
        n for n in ("decoders", "diffusion") if not getattr(config.qat, n).epochs and not getattr(config.qat, n).steps
    ]
    if ptq:
        yield Check(
            id="parameters.qat",
            status="warning",
            figure=_("no quantisation-aware training of: {parts}").format(parts=", ".join(ptq)),
            why=_("calibration alone loses more quality"),
            fix="--set qat.epochs=50",
            apply={"qat.epochs": 50},
        )
    if config.quant.scheme == "default":
        yield Check(
            id="parameters.scheme",
            status="warning",
            figure="quant.scheme = default",
            why=_("one scale for a whole tensor loses more quality than one for each channel"),
            fix="--set quant.scheme=aggressive",
            apply={"quant.scheme": "aggressive"},
        )


def data(config: Config, run: Path | None) -> Iterator[Check]:
    """Files and pairs: found, paired, split, of the family that is named. Headers alone are read."""
    from ubq.data.families import recognise

    check, split = data_files(config)
    yield check
    if split is not None:
        files = [pair for side in (split.train, split.val) for pair in side.files]
        ids = [pair.id for pair in files if pair.id is not None]
        folders = {part for pair in files for part in pair.velocity.path.resolve().parent.parts[-3:]}
        families = recognise(ids, folders) if len(ids) == len(files) else ()
        fits = not families or config.data.family in families
        yield Check(
            id="data.family",
            status="ok" if fits else "warning",
            figure=config.data.family
            if fits
            else _("data.family is {family}, the file names are those of {families}").format(
                family=config.data.family, families=", ".join(families)
            ),
            why=_("the data set decides the amplitude range and the official split"),
            fix="" if fits else f"--set data.family={families[0]}",
            apply={} if fits else {"data.family": families[0]},
        )
    why = check.why
    if run is not None and (seen := restored(read_object(RunPaths(run).data / "dataset.json"))):
        for warning in seen.get("warnings", []):
            yield Check(
                id="data.content",
                status="warning",
                figure=warning if isinstance(warning, str) else str(warning),
                why=why,
            )


def data_files(config: Config) -> tuple[Check, Split | None]:
    """Whether there are pairs to train on, and their split where files were given; headers alone are read."""
    from ubq.data.files import no_data, with_data_found
    from ubq.data.pairs import open_pairs
    from ubq.stages.maps import seismic_shape

    why = _("a stage that meets a damaged file stops hours later")
    requested, config = config, with_data_found(config)
    if not config.data.train_velocity:
        if not config.data.synth_samples:
            figure, fix = no_data(config)
            return Check(id="data.files", status="failed", figure=figure, why=why, fix=fix), None
        figure = _("none given: {count} {family}-like pairs will be synthesised")
        figure = figure.format(count=config.data.synth_samples, family=config.data.family)
        return Check(id="data.files", status="ok", figure=figure, why=why), None
    try:
        split = open_pairs(config.data, config.seed, seismic_shape=seismic_shape(config))
        pairs = split.pairs()
    except DataError as error:
        return Check(id="data.readable", status="failed", figure=error.message, why=why, fix=error.fix), None
    figure = _("{train} training and {val} held-out pairs: {rule}")
    figure = figure.format(train=len(pairs.train), val=len(pairs.val), rule=split.rule)
    if requested is not config:
        figure = joined("; ", (_("found in {folder}").format(folder=config.data.train_velocity), figure))
    alone = len(split.train) + len(split.val) - len(pairs.train) - len(pairs.val)
    if alone:
        text = _("; {count} maps without gathers, for the autoencoder and the U-Net alone").format(count=alone)
        figure = joined("", (figure, text))
    return Check(id="data.files", status="ok", figure=figure, why=why), split


def checkpoint(config: Config) -> Iterator[Check]:
    """The checkpoint to import, where one is named: read whole, so that no stage meets it later."""
    if not config.pretrained.path:
        yield Check(
            id="checkpoint.path",
            status="ok",
            figure=_("none given: the model is pretrained"),
            why=_("pretraining takes longest"),
        )
    missing = False
    for key in ("path", "decoder_path"):
        name = getattr(config.pretrained, key)
        if name and not Path(name).is_file():
            missing = True
            yield Check(
                id=f"checkpoint.{key}",
                status="failed",
                figure=_("{path} does not exist").format(path=name),
                why=_("the model is read from it"),
                fix=f"--set pretrained.{key}=FILE",
            )
    if missing or not (config.pretrained.path or config.pretrained.decoder_path):
        return
    from ubq.stages.importing import decoders_problem

    imported_model = None
    if config.pretrained.path:
        imported_model = yield from _importable(config)
        if imported_model is None:
            return
    if problem := decoders_problem(config, imported_model):
        yield Check(
            id="checkpoint.decoder_path",
            status="failed",
            figure=problem,
            why=_("they replace the training of the decoders"),
            fix=_("give a final_qat_decoders.pt of the same model: --set pretrained.decoder_path=FILE"),
        )


def _importable(config: Config) -> Generator[Check, None, ImportedModel | None]:
    """What is in the checkpoint, whether it was trained, and whether the ranges are those it was trained with."""
    from ubq.stages.importing import find_the_diffusion_checkpoint, nothing_learned, read_pretrained
    from ubq.upstream.importer import NotFiniteError

    why = _("the model is read from it, and nothing is loaded with holes")
    try:
        imported_model = read_pretrained(config)
    except UbqError as error:
        sound = error.sound if isinstance(error, NotFiniteError) else ""
        yield Check(
            id="checkpoint.path",
            status="failed",
            figure=error.message,
            why=why,
            fix=error.fix or shlex.join(["ubq", "checkpoint", "inspect", config.pretrained.path]),
            apply={"pretrained.weights": sound} if sound else {},
        )
        return None
    yield Check(
        id="checkpoint.path",
        status="ok",
        figure=_("{container}, {variant}, {total:.1f} M parameters, {weights} weights").format(
            container=imported_model.container,
            variant=imported_model.variant,
            total=sum(imported_model.parameters_per_part.values()) / 1e6,
            weights=imported_model.weights_used,
        ),
        why=why,
    )
    if doubt := nothing_learned(config, imported_model):
        yield Check(
            id="checkpoint.trained",
            status="failed" if imported_model.of_decoders else "warning",
            figure=doubt,
            why=_("quantisation-aware training keeps what a model has learned, and teaches it little"),
            fix=find_the_diffusion_checkpoint(),
        )
    ranges = imported_model.suggested_normalization
    fits = config.data.normalization in ("auto", ranges) or not isinstance(config.data.normalization, str)
    yield Check(
        id="checkpoint.normalization",
        status="ok" if fits else "warning",
        figure=_("data.normalization is {given}, the checkpoint's code trains with {wanted}").format(
            given=config.data.normalization, wanted=ranges
        ),
        why=_("a model must be used with the ranges it was trained with"),
        fix="" if fits else f"--set data.normalization={ranges}",
        apply={} if fits else {"data.normalization": ranges},
    )
    return imported_model


def check_inputs(config: Config, todo: Sequence[Stage]) -> list[Check]:
    """Whether what the stages read from outside the run is there, the data as far as their headers tell."""
    checks = [data_files(config)[0]] if any(stage.name == "prepare" for stage in todo) else []
    others = [stage for stage in todo if stage.name != "prepare"]
    missing = [path for stage in others for path in stage.inputs(config) if not Path(path).exists()]
    if not missing and any(check.failed for check in checks):
        return checks
    if not missing:
        return [*checks, Check(id="data", status="ok", figure=_("all input files are there"))]
    return [
        *checks,
        Check(
            id="data",
            status="failed",
            figure=_("{path} does not exist").format(path=missing[0]),
            why=_("a stage reads it"),
            fix=_("correct the path in the configuration or on the command line"),
        ),
    ]


def check_synthesis(config: Config, names: Sequence[str]) -> list[Check]:
    """Whether pairs can be synthesised, where no data were given."""
    from ubq.config.extras import install_line, missing_modules

    if "prepare" not in names or config.data.train_velocity or not config.data.synth_samples:
        return []
    missing = missing_modules("physics")
    return [
        Check(
            id="physics",
            status="failed" if missing else "ok",
            figure=_("not installed here: {modules}").format(modules=", ".join(missing))
            if missing
            else _("forward modelling is installed"),
            why=_("no data folder is given, so shot gathers are modelled"),
            fix=install_line("physics") if missing else "",
        )
    ]
