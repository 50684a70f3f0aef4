"""Scaling of velocity maps and shot gathers to [-1, 1].

Velocity: min-max. Seismic: ``sign(x) log1p(|x|)``, then min-max of the logarithm of the range (OpenFWI's
``LogTransform`` with k = 1). A model must be used with the ranges it was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ubq.data.families import FAMILIES, VELOCITY_RANGE
from ubq.errors import UsageError
from ubq.i18n import gettext as _

if TYPE_CHECKING:
    from ubq.config.schema import DataConfig

Array = TypeVar("Array", torch.Tensor, np.ndarray)


def signed_log(amplitude: float) -> float:
    """``sign(x) log1p(|x|)`` of one number."""
    return math.copysign(math.log1p(abs(amplitude)), amplitude)


@dataclass(frozen=True)
class Normalization:
    """The four numbers that scale a data set: amplitudes, and velocities in m/s.

    Raises:
        UsageError: a range is empty or not finite.
    """

    amplitude_min: float
    amplitude_max: float
    velocity_min: float
    velocity_max: float

    def __post_init__(self) -> None:
        for name, low, high in (
            ("amplitude", self.amplitude_min, self.amplitude_max),
            ("velocity", self.velocity_min, self.velocity_max),
        ):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UsageError(
                    _("data.normalization: {name} range {low} to {high} is empty").format(
                        name=name, low=low, high=high
                    ),
                    _("give [amplitude min, amplitude max, velocity min, velocity max]"),
                )

    @property
    def log_min(self) -> float:
        """Signed logarithm of ``amplitude_min``; what maps to -1."""
        return signed_log(self.amplitude_min)

    @property
    def log_max(self) -> float:
        """Signed logarithm of ``amplitude_max``; what maps to 1."""
        return signed_log(self.amplitude_max)

    def velocity(self, velocity: Array) -> Array:
        """Velocity in m/s to [-1, 1]; any shape."""
        return (velocity - self.velocity_min) * (2.0 / (self.velocity_max - self.velocity_min)) - 1.0

    def unvelocity(self, scaled: Array) -> Array:
        """Inverse of :meth:`velocity`: m/s."""
        return (scaled + 1.0) * (0.5 * (self.velocity_max - self.velocity_min)) + self.velocity_min

    def seismic(self, amplitude: Array) -> Array:
        """Amplitudes to [-1, 1] of the logarithm; any shape."""
        if isinstance(amplitude, torch.Tensor):
            log = torch.copysign(torch.log1p(amplitude.abs()), amplitude)
        else:
            log = np.copysign(np.log1p(np.abs(amplitude)), amplitude)
        return (log - self.log_min) * (2.0 / (self.log_max - self.log_min)) - 1.0

    def unseismic(self, scaled: Array) -> Array:
        """Inverse of :meth:`seismic`: amplitudes."""
        log = (scaled + 1.0) * (0.5 * (self.log_max - self.log_min)) + self.log_min
        if isinstance(log, torch.Tensor):
            return torch.copysign(torch.expm1(log.abs()), log)
        return np.copysign(np.expm1(np.abs(log)), log)

    def to_list(self) -> list[float]:
        """``[amplitude_min, amplitude_max, velocity_min, velocity_max]``, as in the configuration."""
        return [self.amplitude_min, self.amplitude_max, self.velocity_min, self.velocity_max]

    def to_dict(self) -> dict[str, float]:
        """For JSON files and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalization:
        """Inverse of :meth:`to_dict`."""
        return cls(**{name: float(values[name]) for name in cls.__dataclass_fields__})

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Normalization:
        """Inverse of :meth:`to_list`."""
        amplitude_min, amplitude_max, velocity_min, velocity_max = (float(v) for v in values)
        return cls(amplitude_min, amplitude_max, velocity_min, velocity_max)


def for_config(data: DataConfig) -> Normalization:
    """The ranges that a configuration asks for; ``auto`` is settled by the import stage, and is OpenFWI's without one.

    Raises:
        UsageError: ``fork`` for a family that the fork has no ranges for, or an empty range.
    """
    facts = FAMILIES[data.family]
    if data.normalization in ("auto", "openfwi"):
        return Normalization(*facts.amplitude, *VELOCITY_RANGE)
    if isinstance(data.normalization, tuple):
        return Normalization.from_list(data.normalization)
    if facts.fork_ranges is None:
        known = ", ".join(name for name, other in FAMILIES.items() if other.fork_ranges)
        raise UsageError(
            _("data.normalization: the fork has no ranges for {family}, only for {known}").format(
                family=data.family, known=known
            ),
            _('use normalization = "openfwi" or give four numbers'),
        )
    return Normalization(*facts.fork_ranges)
