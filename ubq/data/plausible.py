"""Which values a sample can hold."""

from __future__ import annotations

import math
from pathlib import Path

from ubq.errors import DataError
from ubq.i18n import gettext as _

PLAUSIBLE_VELOCITY = (100.0, 10_000.0)
"""m/s, generously; anything else is a mistake of units, scaled data or a damaged file."""


def check_finite(path: Path, row: int, low: float, high: float) -> None:
    """Refuse a sample whose smallest or largest value is not finite.

    Raises:
        DataError: NaN or infinite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(
            _("{path}, sample {row}: holds NaN or infinite values").format(path=path, row=row),
            _("repair or remove the sample"),
        )


def check_velocity(path: Path, row: int, low: float, high: float) -> None:
    """Refuse a map whose smallest and largest velocity cannot be.

    Raises:
        DataError: not finite, or outside ``PLAUSIBLE_VELOCITY``.
    """
    check_finite(path, row, low, high)
    slowest, fastest = PLAUSIBLE_VELOCITY
    if slowest <= low and high <= fastest:
        return
    fix = _("repair or remove the sample; velocities are in m/s")
    if low >= 0.1 and high <= 10.0:
        fix = _("these look like km/s: multiply by 1000")
    elif low >= -1.1 and high <= 1.1:
        fix = _("these look normalised already: give maps in m/s")
    raise DataError(
        _("{path}, sample {row}: velocities {low:g} to {high:g} are not m/s of rock").format(
            path=path, row=row, low=low, high=high
        ),
        fix,
    )
