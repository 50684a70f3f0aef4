"""The named options of ``ubq run``, known from the three-script workflow; ``ubq.config.flags`` has their keys."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

import typer

from ubq.cli.options import GROUP

_DATA = "Data and model"
_QAT = "Quantisation-aware training"
_QUANT = "Quantisation"


@dataclass(frozen=True, kw_only=True)
class Named:
    """One option.

    Args:
        option: as typed, ``--epochs``; a switch also has ``--no-epochs``.
        kind: type of its value.
        help: for ``--help``.
        panel: heading it stands under there.
        on_only: a switch that cannot be turned off.
    """

    option: str
    kind: type = str
    help: str
    panel: str
    on_only: bool = False

    @property
    def name(self) -> str:
        return self.option[2:].replace("-", "_")

    @property
    def parameter(self) -> inspect.Parameter:
        """What Typer reads."""
        spelled = self.option
        if self.kind is bool and not self.on_only:
            spelled = f"{self.option}/--no-{self.option[2:]}"
        option = typer.Option(spelled, help=self.help, rich_help_panel=self.panel)
        kind: Any = Annotated[self.kind | None, option]
        return inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


NAMED = (
    Named(option="--nproc", kind=int, help="Processes on this machine that train together.", panel=GROUP),
    Named(option="--train-data", help="Training shot gathers: file or folder.", panel=_DATA),
    Named(option="--train-label", help="Training velocity maps.", panel=_DATA),
    Named(option="--val-data", help="Held-out shot gathers.", panel=_DATA),
    Named(option="--val-label", help="Held-out velocity maps.", panel=_DATA),
    Named(option="--dataset", help="OpenFWI data set, as curvefault-a.", panel=_DATA),
    Named(option="--pretrained-path", help="Checkpoint to import instead of pretraining.", panel=_DATA),
    Named(
        option="--decoder-checkpoint",
        help="Decoders to use instead: final_qat_decoders.pt of another run, or an upstream checkpoint.",
        panel=_DATA,
    ),
    Named(option="--device", help="auto, cpu, cuda or cuda:N.", panel=_DATA),
    Named(option="--epochs", kind=int, help="Epochs of both QAT stages; 0: calibrate only.", panel=_QAT),
    Named(option="--batch-size", kind=int, help="Batch size of both QAT stages.", panel=_QAT),
    Named(option="--lr", kind=float, help="Learning rate of both QAT stages.", panel=_QAT),
    Named(option="--decoder-batch-size", kind=int, help="Batch size of qat-decoders.", panel=_QAT),
    Named(option="--diffusion-batch-size", kind=int, help="Batch size of qat-diffusion.", panel=_QAT),
    Named(option="--backend", help="Integer engine: qnnpack (Raspberry Pi), x86, fbgemm, onednn.", panel=_QUANT),
    Named(option="--convert-conv1d", kind=bool, help="Rewrite Conv1d as Conv2d.", panel=_QUANT),
    Named(
        option="--use-aggressive-quantization",
        kind=bool,
        help="One scale a channel and searched ranges.",
        panel=_QUANT,
    ),
    Named(option="--quantize-velocity", kind=bool, help="The velocity decoder.", panel=_QUANT),
    Named(option="--quantize-seismic", kind=bool, help="The seismic decoder.", panel=_QUANT),
    Named(option="--quantize-diffusion", kind=bool, help="The diffusion U-Net.", panel=_QUANT),
    Named(
        option="--force-quantization",
        kind=bool,
        help="Leave no layer in float: no keep_float, no quality budget.",
        panel=_QUANT,
        on_only=True,
    ),
    Named(
        option="--test-generation",
        kind=bool,
        help="Sample the exported file in a fresh process; always done, by the stage verify.",
        panel=_QUANT,
        on_only=True,
    ),
)


def with_named_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of :data:`NAMED`; it gets them as ``options``, ``{"--epochs": 30, "--lr": None}``."""
    hints = get_type_hints(function, include_extras=True)
    own_parameters = [
        p.replace(annotation=hints[p.name])
        for p in inspect.signature(function).parameters.values()
        if p.name != "options"
    ]
    parameters = [*own_parameters, *(n.parameter for n in NAMED)]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options = {n.option: values.pop(n.name) for n in NAMED}
        function(**values, options=options)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command
