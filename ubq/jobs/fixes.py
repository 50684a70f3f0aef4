"""What fixes a failed success mark or a stage that ran out of memory: one table for doctor and the text UI.

A fix is a cause in words, what to do, and configuration keys to set. ``ubq resume RUN --set …`` applies the keys to a
run and goes on with the stages that depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ubq.config.runs import command as shell_command
from ubq.config.runs import quoted, run_command, words_of
from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.i18n import in_english, joined
from ubq.jobs.fingerprints import WITHOUT_EFFECT
from ubq.jobs.plan import UNASKED_S
from ubq.jobs.state import read_state
from ubq.stages.floatmodel import imported
from ubq.stages.paths import RunPaths
from ubq.stages.settings import TABLES, training_of

if TYPE_CHECKING:
    from ubq.config.schema import Config

BASE_DIM_MULTS = [1, 2, 2, 2]
"""U-Net of the base presets: the full-size one has five times the weights."""


@dataclass(frozen=True)
class Fix:
    """How to fix something.

    Args:
        cause: what most likely caused it.
        action: what to do, in words or as a command; empty where setting ``apply`` is all. ``{run}`` in it stands for
            the run as commands take it, ``{config}`` for its configuration.
        apply: dotted keys and the values to set.
    """

    cause: str
    action: str = ""
    apply: Mapping[str, object] = field(default_factory=dict)

    def command(self, run: Path | None, worked: float | None = None) -> str:
        """The command that applies the fix to a run's folder, or to the configuration in the working folder.

        Args:
            run: folder; None: the configuration.
            worked: seconds that the run's stages have taken; None: what its state file says.
        """
        if not self.apply:
            config = quoted(str(RunPaths(run.absolute()).config)) if run else "runs/RUN/config.toml"
            return self.action.format(run=shell_command(*words_of(run)) if run else "RUN", config=config)
        from ubq.config.keys import toml_value

        sets = [
            part
            for key, value in self.apply.items()
            for part in ("--set", f"{key}={value if isinstance(value, str) else toml_value(value)}")
        ]
        asked = run and not _without_effect(self.apply) and (_worked(run) if worked is None else worked) > UNASKED_S
        yes = ("--yes",) if asked else ()
        command = run_command("resume", run, *sets, *yes) if run else shell_command("ubq", "run", *sets)
        return joined(": ", (self.action, command)) if self.action else command


def _worked(run: Path) -> float:
    """Seconds that a run's stages have taken so far."""
    try:
        state = read_state(RunPaths(run).state)
    except (UbqError, OSError):
        return 0.0
    return sum(stage.seconds for stage in state.stages) if state else 0.0


def _without_effect(keys: Iterable[str]) -> bool:
    return all(key in WITHOUT_EFFECT for key in keys)


def _longer(config: Config, stage: str) -> dict[str, object]:
    """Twice the training of a stage."""
    training = training_of(config, stage)
    assert training is not None
    if stage == "distill":
        return {"distill.updates": 2 * config.distill.updates}
    if training.steps:
        return {f"{TABLES[stage]}.steps": 2 * training.steps}
    return {f"{TABLES[stage]}.epochs": max(5, 2 * training.epochs)}


def _calmer(config: Config, stage: str) -> dict[str, object]:
    """Half the learning rate of a stage."""
    training = training_of(config, stage)
    assert training is not None
    return {f"{TABLES[stage]}.lr": training.lr / 2}


def calmer(config: Config, stage: str) -> Fix:
    """A training that left the finite numbers: a smaller learning rate."""
    cause = _("the learning rate is too high")
    return Fix(cause, "", _calmer(config, stage) if training_of(config, stage) else {})


def out_of_memory(config: Config, stage: str, tried: int = 0) -> Fix:
    """A stage that did not fit the memory: the same batch in smaller parts.

    Args:
        config: the run's.
        stage: its name.
        tried: parts that the stage has come to by itself; 0: it tried none.
    """
    training = training_of(config, stage)
    if training is None:
        cause = _("the machine ran out of memory, or the process was killed by hand")
        return Fix(cause, _("free some memory, then: ubq resume {run}"))
    cause = _("the machine ran out of memory (batch_size {batch} in {parts} parts), or the process was killed by hand")
    now = max(training.accumulate, tried)
    cause = cause.format(batch=training.batch_size, parts=now)
    if now < training.batch_size and not (tried and 2 * tried >= training.batch_size):
        parts = min(2 * now, training.batch_size)
        return Fix(cause, _("compute the batch in smaller parts"), {f"{TABLES[stage]}.accumulate": parts})
    if imported(config):  # its sizes are the checkpoint's
        return Fix(cause, _("the smallest parts already: use a machine with more memory, or import a smaller model"))
    return Fix(cause, _("the smallest parts already: use a smaller preset, ubq presets list"))


def too_large(on_gpu: bool) -> Fix:
    """A stage whose weights and training state alone do not fit: no part of a batch is small enough."""
    cause = _("weights, gradients, optimiser and moving average alone are more than there is")
    if on_gpu:
        return Fix(cause, _("smaller parts of a batch would not help: use a smaller preset or a larger device"))
    return Fix(cause, _("smaller parts of a batch would not help: use a smaller preset, ubq presets list"))


def _quantised_modules(config: Config, how: str) -> Fix:
    names = ("convert_conv1d", "convert_transposed", "fold_batchnorm", "velocity", "seismic", "diffusion")
    apply: dict[str, object] = {f"quant.{n}": True for n in names if not getattr(config.quant, n)}
    if config.quant.keep_float:
        apply["quant.keep_float"] = []
    if config.quant.max_quality_loss:
        apply["quant.max_quality_loss"] = 0.0
    if apply:
        return Fix(_("parts of the model, or rewrites that integer kernels need, are switched off"), "", apply)
    return Fix(_("layers stayed in float"), _("see which and why: ubq quant analyze {run}"))


def _conv1d_left(config: Config, how: str) -> Fix:
    cause = _("there is no integer kernel for Conv1d; the U-Net's have to be rewritten as Conv2d")
    off = {f"quant.{n}": True for n in ("convert_conv1d", "diffusion") if not getattr(config.quant, n)}
    return Fix(cause, "" if off else _("export the file again: ubq run --config {config} --force export"), off)


def _loss_falling(config: Config, how: str) -> Fix:
    # ``how`` names the stages that failed, each with its reason.
    reasons = {s: part for part in how.split(";") for s in TABLES if part.strip().startswith(f"{s}:")}
    too_short = [s for s, reason in reasons.items() if "needed" in reason]
    if too_short:
        keys = {k: v for s in too_short for k, v in _longer(config, s).items()}
        return Fix(_("too few steps to judge a trend"), "", keys)
    keys = {k: v for s in reasons for k, v in _calmer(config, s).items()}
    cause = _("the learning rate is too high, or the training too short or already at its floor")
    return Fix(cause, "" if keys else _("look at the log: ubq logs {run}"), keys)


def _file_size(config: Config, how: str) -> Fix:
    cause = _("the U-Net is too large for the file limit")
    if imported(config) and config.quant.diffusion:
        return Fix(cause, _("its size is the checkpoint's: import a model of the base size, dim_mults 1, 2, 2, 2"))
    if list(config.model.dim_mults) == BASE_DIM_MULTS or not config.quant.diffusion:
        return _quantised_modules(config, how)
    return Fix(cause, _("train the base size"), {"model.dim_mults": BASE_DIM_MULTS})


def _generation(config: Config, how: str) -> Fix:
    cause = _("the exported file does not do on its own what it should; how it failed stands in the mark")
    action = _("export it again: ubq run --config {config} --force export; the log has the details: ubq logs {run}")
    return Fix(cause, action)


def _int8_fidelity(config: Config, how: str) -> Fix:
    if config.quant.scheme != "aggressive":
        cause = _("one scale for a whole weight tensor is too coarse")
        return Fix(cause, "", {"quant.scheme": "aggressive"})
    if config.quant.observer == "moving_average":
        return Fix(_("outliers widen the activation ranges"), "", {"quant.observer": "mse"})
    if not config.quant.max_quality_loss:
        cause = _("a few layers lose most of the quality; the report names the worst")
        return Fix(cause, _("let those back to float"), {"quant.max_quality_loss": 0.05})
    keys = {**_longer(config, "qat-decoders"), **_longer(config, "qat-diffusion")}
    return Fix(_("quantisation-aware training was too short"), "", keys)


def _more_diffusion(config: Config, cause: str) -> Fix:
    """More training of the U-Net; of an imported one, only its quantisation-aware training can be longer."""
    if imported(config):
        action = _("give a checkpoint whose diffusion model was trained longer, or train it longer here")
        return Fix(cause, action, _longer(config, "qat-diffusion"))
    return Fix(cause, _("train the diffusion model longer"), _longer(config, "train-diffusion"))


def _diversity(config: Config, how: str) -> Fix:
    cause = _("the sampler collapses to few maps: the diffusion model is trained too little, or diverged")
    return _more_diffusion(config, cause)


def _beats_noise(config: Config, how: str) -> Fix:
    from ubq.config.schema import DEFAULT_FAST_STEPS, MOST_DISTILLED_STEPS

    steps = config.sampling_steps
    if 0 < config.distill.steps < MOST_DISTILLED_STEPS:
        return Fix(_("too few sampling steps"), "", {"distill.steps": config.distill.steps + 1})
    if (
        not config.distill.steps
        and config.export.solver != "ddpm"
        and steps < min(DEFAULT_FAST_STEPS, config.model.diffusion_steps)
    ):
        more = min(2 * steps, config.model.diffusion_steps)
        return Fix(_("too few sampling steps"), "", {"export.steps": more})
    return _more_diffusion(config, _("the diffusion model is trained too little"))


def _physics(config: Config, how: str) -> Fix:
    if config.model.receivers != 70:
        cause = _("gathers can be modelled with a receiver at each of the 70 cells across alone")
        return Fix(cause, "", {"model.receivers": 70})
    return Fix(
        _("the file's own wave equation is not what this ubq computes"), _("export it again: ubq run --force export")
    )


def _lattice(config: Config, how: str) -> Fix:
    imported = _("an imported decoder has the lattice it was trained with")
    if config.pretrained.path:
        return Fix(imported, _("pretrain the decoder instead: leave pretrained.path empty"))
    if not config.train.autoencoder.smooth_upsampling:
        return Fix(_("kernels that upsample are free to draw one"), "", {"train.autoencoder.smooth_upsampling": True})
    keys = {**_longer(config, "train-autoencoder"), **_longer(config, "qat-decoders")}
    return Fix(_("the velocity decoder is trained too little"), "", keys)


def _variogram(config: Config, how: str) -> Fix:
    if config.pretrained.path:
        cause = _("the imported model draws maps of less variety than its data's, or is of other data")
        return Fix(cause, _("compare it with held-out maps: ubq bench maps"))
    cause = _("the decoder blurs, or the U-Net draws too little variety: which of them, ubq bench maps shows")
    return Fix(cause, "", {**_longer(config, "train-autoencoder"), **_longer(config, "train-diffusion")})


MARKS: Mapping[str, tuple[str, Callable[[Config, str], Fix]]] = {
    "quantised_modules": (_("integer layers are what makes the file small and fast"), _quantised_modules),
    "conv1d_left": (_("a Conv1d runs in float, and the U-Net has 75"), _conv1d_left),
    "loss_falling": (_("a loss that does not fall has taught the model nothing"), _loss_falling),
    "file_size": (_("a Raspberry Pi has to load it"), _file_size),
    "generation": (_("the file must work where it is copied to"), _generation),
    "int8_fidelity": (_("the integer file must say what the float model says"), _int8_fidelity),
    "diversity": (_("a generator that repeats itself adds nothing to a data set"), _diversity),
    "beats_noise": (_("the diffusion must draw better maps than decoded noise"), _beats_noise),
    "physics": (_("a gather that ignores its map teaches an inversion nothing"), _physics),
    "lattice": (_("dots on a grid are no geology"), _lattice),
    "variogram": (_("maps of other variety than real ones teach an inversion wrongly"), _variogram),
}
"""Success mark -> why it matters, and what fixes it, from the configuration and from how it was measured."""


def fix_of(mark: str, config: Config, how: str = "") -> Fix:
    """What fixes a failed mark, from how it was measured."""
    return MARKS[mark][1](config, in_english(how)) if mark in MARKS else Fix("")
