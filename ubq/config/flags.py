"""Named options of ``ubq run`` that users of the three-script workflow know, and the key each one sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ubq.config.layers import Given


@dataclass(frozen=True)
class Flag:
    """One named option.

    Args:
        option: as typed, ``--epochs``.
        key: dotted key it sets; empty: ``note`` says what it does.
        switch: values of ``--x`` and ``--no-x``; None for an option that takes a value.
        note: what to know when it differs from what it did.
    """

    option: str
    key: str
    switch: tuple[object, object] | None = None
    note: str = ""

    @property
    def spelled(self) -> str:
        """``--x/--no-x`` for switches that can be turned off."""
        return f"{self.option}/--no-{self.option[2:]}" if self.switch and self.key else self.option


ON_OFF = (True, False)

FLAGS = (
    Flag("--train-data", "data.train_seismic"),
    Flag("--train-label", "data.train_velocity"),
    Flag("--val-data", "data.val_seismic"),
    Flag("--val-label", "data.val_velocity"),
    Flag("--dataset", "data.family"),
    Flag("--pretrained-path", "pretrained.path"),
    Flag("--decoder-checkpoint", "pretrained.decoder_path"),
    Flag("--epochs", "qat.epochs"),
    Flag("--batch-size", "qat.batch_size"),
    Flag("--lr", "qat.lr"),
    Flag("--decoder-batch-size", "qat.decoders.batch_size"),
    Flag("--diffusion-batch-size", "qat.diffusion.batch_size"),
    Flag("--backend", "quant.backend"),
    Flag("--convert-conv1d", "quant.convert_conv1d", ON_OFF),
    Flag("--use-aggressive-quantization", "quant.scheme", ("aggressive", "default")),
    Flag("--quantize-velocity", "quant.velocity", ON_OFF),
    Flag("--quantize-seismic", "quant.seismic", ON_OFF),
    Flag("--quantize-diffusion", "quant.diffusion", ON_OFF),
    Flag("--device", "device"),
    Flag("--nproc", "distributed.nproc"),
    Flag("--run", "run.name"),
    Flag("--runs-dir", "run.dir"),
    Flag("--force-quantization", "", ON_OFF, "`quant.keep_float = []` and `quant.max_quality_loss = 0.0`"),
    Flag("--test-generation", "", ON_OFF, "nothing to set: the stage `verify` always samples the exported file"),
)
"""Every named option; more specific ones after the general ones, since the later wins."""


def typed(options: Mapping[str, object]) -> dict[str, object]:
    """Overrides for ``load_config`` from the options that were really typed.

    Args:
        options: ``{"--epochs": 30, "--convert-conv1d": False, "--lr": None}``; None: not typed.
    """
    overrides: dict[str, object] = {}
    for flag in FLAGS:
        value = options.get(flag.option)
        if value is None or not flag.key:
            continue
        shown = flag.option
        if flag.switch:
            shown = flag.option if value else f"--no-{flag.option[2:]}"
            value = flag.switch[0] if value else flag.switch[1]
        overrides[flag.key] = Given(value, shown)
    return overrides
