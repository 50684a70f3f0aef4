"""What the wizard asks, step by step. Labels, help, bounds and choices are the schema's; this is the order alone.

The screens and the plain prompts (``--no-tui``) share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from ubq.config import keys
from ubq.config.schema import Config
from ubq.i18n import gettext as _

PATHS = frozenset(
    ("data.train_seismic", "data.train_velocity", "data.val_seismic", "data.val_velocity", "pretrained.path",
     "pretrained.decoder_path", "run.dir")
)  # fmt: skip
"""Keys that name a file or a folder, completed as one types."""
INPUTS = PATHS - {"run.dir"}
"""Those that must be there before a run starts."""


@dataclass(frozen=True)
class Question:
    """One key to ask for.

    Args:
        key: of the schema.
        cost: what an answer costs or gains, beyond the key's help.
        shown_if: whether the configuration so far makes the question meaningful.
    """

    key: keys.Key
    cost: str
    shown_if: Callable[[Config], bool]

    @property
    def label(self) -> str:
        """Name of the field for people."""
        labels = _labels()
        return labels.get(self.key.name) or labels[self.key.path[-1]]

    @property
    def words(self) -> tuple[str, ...]:
        """Fixed words that it takes, one at a time; none where it takes no such words."""
        return self.key.choices if self.key.kind == "string" and self.key.choices else _WORDS.get(self.key.name, ())

    @property
    def other(self) -> str:
        """What it takes beside the fixed words; empty: nothing."""
        others = {"data.normalization": _("own four numbers"), "device": _("another one")}
        return others.get(self.key.name, "")

    @property
    def example(self) -> str:
        """What an answer may look like, for an empty line."""
        examples = {
            "data.train_velocity": "data/CurveFault-A/vel*.npy",
            "data.train_seismic": "data/CurveFault-A/seis*.npy",
            "data.val_velocity": "data/CurveFault-A-val",
            "data.val_seismic": "data/CurveFault-A-val",
            "data.normalization": "-26.5, 52.3, 1500, 4500",
            "device": "cuda:1",
            "pretrained.path": "checkpoints/model-100.pt",
            "pretrained.decoder_path": "runs/demo/checkpoints/qat_decoders/final_qat_decoders.pt",
            "quant.keep_float": "unet.final*, velocity.head",
            "export.step_choices": "4, 20",
            "export.name": "curvefault-a",
        }
        example = examples.get(self.key.name, "")
        return _("for example {value}").format(value=example) if example else ""

    @property
    def help(self) -> str:
        """The key's help, what it costs, and what it takes."""
        allowed = "" if self.key.choices or self.key.kind in ("string", "boolean") else f"{self.key.allowed}."
        path = _("The right arrow completes a path.") if self.key.name in PATHS else ""
        # Of a help in paragraphs one: the pane has few rows.
        sentences = " ".join(t for t in (" ".join(_(self.key.help).split()), self.cost, allowed, path) if t)
        return sentences.replace("。 ", "。")  # Chinese sentences have no blank between them


@dataclass(frozen=True)
class Step:
    """One page of the wizard: groups of questions, each group under a heading (empty: none)."""

    id: str
    title: str
    about: str
    groups: tuple[tuple[str, tuple[Question, ...]], ...]

    @property
    def questions(self) -> list[Question]:
        return [q for _heading, group in self.groups for q in group]


_WORDS = {"device": ("auto", "cpu", "cuda")}


def _labels() -> dict[str, str]:
    """Names of the fields, by key or by the key's last part."""
    return {
        "data.train_velocity": _("Velocity maps for training"),
        "data.train_seismic": _("Shot gathers for training"),
        "data.val_velocity": _("Held-out velocity maps"),
        "data.val_seismic": _("Held-out shot gathers"),
        "data.family": _("Data set"),
        "data.normalization": _("Scale by the ranges of"),
        "data.synth_samples": _("Pairs to synthesise"),
        "pretrained.path": _("Checkpoint file"),
        "pretrained.weights": _("Weights to take from it"),
        "pretrained.decoder_path": _("File of trained decoders"),
        "model.variant": _("Code the model follows"),
        "model.encoder_dim": _("Length of the latent"),
        "model.dim_mults": _("Widths of the U-Net"),
        "quant.backend": _("Integer engine"),
        "quant.scheme": _("Quantisation scheme"),
        "quant.convert_conv1d": _("Conv1d layers to int8"),
        "quant.velocity": _("Velocity decoder to int8"),
        "quant.seismic": _("Seismic decoder to int8"),
        "quant.diffusion": _("U-Net to int8"),
        "quant.observer": _("Activation ranges by"),
        "quant.keep_float": _("Layers kept in float"),
        "quant.max_quality_loss": _("Quality it may lose"),
        "qat.warmup": _("Warm-up, three shares"),
        "device": _("Device to train on"),
        "threads": _("CPU threads"),
        "epochs": _("Epochs"),
        "steps": _("Steps"),
        "batch_size": _("Batch size"),
        "lr": _("Learning rate"),
        "export.formats": _("File formats"),
        "distill.steps": _("Distil to steps (0: off)"),
        "export.solver": _("Sampler"),
        "export.steps": _("Sampling steps"),
        "export.step_choices": _("Further step counts"),
        "export.name": _("Name of the files"),
        "run.name": _("Name of the run"),
        "run.dir": _("Folder of the runs"),
    }


def _always(config: Config) -> bool:
    return True


def _synthesised(config: Config) -> bool:
    return not config.data.train_velocity


def _own_data(config: Config) -> bool:
    return bool(config.data.train_velocity)


def _pretrained(config: Config) -> bool:
    return not config.pretrained.path


def _imported(config: Config) -> bool:
    return bool(config.pretrained.path)


def _aggressive(config: Config) -> bool:
    return config.quant.scheme == "aggressive"


def _in_any_steps(config: Config) -> bool:
    return not config.distill.steps


_SHOWN_IF: dict[str, Callable[[Config], bool]] = {
    "data.train_seismic": _own_data,
    "data.val_velocity": _own_data,
    "data.val_seismic": _own_data,
    "data.synth_samples": _synthesised,
    "pretrained.weights": _imported,
    "pretrained.decoder_path": _imported,
    "quant.observer": _aggressive,
    "export.solver": _in_any_steps,
    "export.steps": _in_any_steps,
    "export.step_choices": _in_any_steps,
}


def _questions(*names: str, table: str = "", shown_if: Callable[[Config], bool] = _always) -> tuple[Question, ...]:
    costs = _costs()
    full = [f"{table}.{name}" if table else name for name in names]
    return tuple(
        Question(keys.leaves()[tuple(n.split("."))], costs.get(n, ""), _SHOWN_IF.get(n, shown_if)) for n in full
    )


def _costs() -> dict[str, str]:
    return {
        "quant.backend": _(
            "x86 and onednn need a CPU with VNNI for their speed; fbgemm trains with 7-bit activations."
        ),
        "quant.scheme": _("aggressive costs nothing on the Pi and keeps more quality."),
        "quant.convert_conv1d": _("Off: the U-Net's 75 Conv1d layers stay in float, larger and slower."),
        "quant.velocity": _("Off: its weights stay four times larger."),
        "quant.seismic": _("Off: its weights, most of the file, stay four times larger."),
        "quant.diffusion": _("Off: the U-Net, most of the time on the Pi, stays in float."),
        "quant.keep_float": _("Each layer kept in float costs size and speed."),
        "quant.observer": _("percentile and mse cut outliers off; calibration takes longer."),
        "quant.max_quality_loss": _("Layers that go back to float cost size and speed."),
        "epochs": _("Count only where steps is 0."),
        "qat.warmup": _("Later is gentler on the weights, and leaves fewer steps for the integer model."),
        "distill.steps": _("Two take a fifth of the time of ten without it, one a tenth."),
        "export.solver": _("dpmpp2m: some 10 steps a map; ddpm: all steps of training, and that many times slower."),
        "export.steps": _("Time on the Pi grows with the steps."),
        "export.formats": _("onnx and executorch need packages of their own."),
    }


@cache
def steps() -> tuple[Step, ...]:
    """The steps before the review."""
    stage = ("epochs", "steps", "batch_size", "lr")
    return (
        Step(
            "data",
            _("Data"),
            _("Folders of velocity maps and shot gathers; without any, pairs are synthesised."),
            (
                (
                    "",
                    _questions(
                        "data.train_velocity",
                        "data.train_seismic",
                        "data.val_velocity",
                        "data.val_seismic",
                        "data.family",
                        "data.normalization",
                        "data.synth_samples",
                    ),
                ),
            ),
        ),
        Step(
            "checkpoint",
            _("Checkpoint"),
            _("A UB-Diff checkpoint that you have; without one, the model is pretrained first."),
            (
                ("", _questions("pretrained.path", "pretrained.weights", "pretrained.decoder_path")),
                (_("model"), _questions("model.variant", "model.encoder_dim", "model.dim_mults", shown_if=_pretrained)),
            ),
        ),
        Step(
            "quantisation",
            _("Quantisation"),
            _("What becomes int8, and how."),
            (
                (
                    "",
                    _questions(
                        "quant.backend",
                        "quant.scheme",
                        "quant.convert_conv1d",
                        "quant.velocity",
                        "quant.seismic",
                        "quant.diffusion",
                        "quant.observer",
                        "qat.warmup",
                        "quant.keep_float",
                        "quant.max_quality_loss",
                    ),
                ),
            ),
        ),
        Step(
            "training",
            _("Training"),
            _("How long and in what portions; the memory it takes follows as you type."),
            (
                ("", _questions("device", "threads")),
                (_("quantisation-aware training"), _questions(*stage, table="qat")),
                (_("its first stage alone: decoders"), _questions("qat.decoders.batch_size")),
                (_("its second stage alone: diffusion"), _questions("qat.diffusion.batch_size")),
                *(
                    (
                        _("pretraining: {stage}").format(stage=name),
                        _questions(*stage, table=table, shown_if=_pretrained),
                    )
                    for name, table in (
                        (_("autoencoder"), "train.autoencoder"),
                        (_("seismic decoder"), "train.seismic"),
                        (_("diffusion"), "train.diffusion"),
                    )
                ),
            ),
        ),
        Step(
            "export",
            _("Export"),
            _("The files for the Pi."),
            (
                (
                    "",
                    _questions(
                        "export.formats",
                        "distill.steps",
                        "export.solver",
                        "export.steps",
                        "export.step_choices",
                        "export.name",
                    ),
                ),
            ),
        ),
    )


@cache
def review() -> Step:
    """What the review asks for: where the run lives."""
    about = _("Everything that will be written and started; PgDn shows the rest.")
    return Step("review", _("Review"), about, ((_("run"), _questions("run.name", "run.dir")),))


def shown(value: object) -> str:
    """A value as a person types it into a field."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(shown(v) for v in value)
    return keys.toml_value(value)
