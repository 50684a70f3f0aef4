"""The wave equation in numpy: the shot gathers of velocity maps where no torch is installed.

The same scheme, step by step, as ``ubq.model.wave``, whose docstring describes it, and the same numbers but for
rounding. Needs numpy alone, so that it works as a file of its own beside a bundle's ``generate.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[np.float32]

HALO = 2
"""Reach of the differences, cells."""
LONGEST_STEP = 2.5e-3
"""s."""
COURANT = 0.56
"""Of the solver's time step."""
REFERENCE_COURANT = 0.6
"""Times 1 / sqrt 2: where the reference halves its time step."""
REFLECTION = 1e-3
"""Of the absorbing layers, by design."""
BAND = 4.2
"""Highest frequency kept, in peak frequencies."""
TAIL = 0.04
"""s solved beyond the last sample."""


class WaveEquation:
    """Shot gathers of velocity maps; the arguments are those of ``ubq.model.wave.WaveEquation``."""

    def __init__(
        self,
        sources: Sequence[int],
        samples: int,
        depth: int,
        cell: float,
        time_step: float,
        peak_frequency: float,
        wavelet_peak: float,
        absorbing_cells: int,
    ) -> None:
        self.sources = list(sources)
        self.samples = samples
        self.depth = depth
        self.cell = cell
        self.time_step = time_step
        self.peak_frequency = peak_frequency
        self.wavelet_peak = wavelet_peak
        self.absorbing_cells = absorbing_cells

    def __call__(self, velocity: Array) -> Array:
        """Velocity (B, 1, H, W) in m/s -> gathers (B, S, T, W), a receiver at every cell across.

        Raises:
            ValueError: a velocity that is not positive and finite.
        """
        return np.stack([self._gather(np.asarray(each[0], np.float32)) for each in velocity])

    def _gather(self, velocity: Array) -> Array:
        fastest = float(velocity.max())
        if not (float(velocity.min()) > 0.0 and fastest < math.inf):
            raise ValueError("velocities must be positive and finite")
        step = min(COURANT * self.cell / fastest, LONGEST_STEP)
        steps = math.ceil((self.samples * self.time_step + TAIL) / step)
        amplitudes, analysis, synthesis = self._dispersion(fastest, step, steps)
        records = self._solve(velocity, fastest, step, amplitudes)
        gather = synthesis @ (analysis @ records)
        shape = (self.samples, velocity.shape[1], len(self.sources))
        return np.ascontiguousarray(gather.reshape(shape).transpose(2, 0, 1))

    def _dispersion(self, fastest: float, step: float, steps: int) -> tuple[list[float], Array, Array]:
        """Source amplitudes, and the matrices that turn records into samples: (2F, steps), (T, 2F)."""
        duration = self.samples * self.time_step
        halvings = math.ceil(fastest * self.time_step * math.sqrt(2.0) / self.cell / REFERENCE_COURANT)
        reference = self.time_step / halvings
        period = duration + TAIL + 0.1
        exact = np.arange(math.ceil(BAND * self.peak_frequency * period) + 1) * (2.0 * math.pi / period)
        weights = np.full(len(exact), 2.0 / period)
        weights[0] *= 0.5
        solved = np.arcsin(np.sin(exact * (reference / 2.0)) * (step / reference)) * (2.0 / step)
        stretch = np.cos(exact * (reference / 2.0)) / np.cos(solved * (step / 2.0))

        time = np.arange(self.samples + 1) * self.time_step
        argument = (math.pi * self.peak_frequency * (time - self.wavelet_peak)) ** 2
        spectrum = _waves(exact[:, None] * time) @ ((1.0 - 2.0 * argument) * np.exp(-argument)) * self.time_step
        source = spectrum * np.tile(stretch * weights, 2)
        amplitudes = source @ _waves(solved[:, None] * (np.arange(steps) * step))

        recorded = np.arange(1, steps + 1) * step
        start = duration + 0.1 * TAIL
        fade = 0.5 + 0.5 * np.cos(math.pi * np.clip((recorded - start) / (steps * step - start), 0.0, 1.0))
        analysis = _waves(solved[:, None] * recorded) * fade
        synthesis = _waves(exact[:, None] * time[1:]).T * np.tile(weights * step, 2)
        return amplitudes.astype(np.float32).tolist(), analysis.astype(np.float32), synthesis.astype(np.float32)

    def _solve(self, velocity: Array, fastest: float, step: float, strength: list[float]) -> Array:
        """Records (steps, W S) of the wavefield after each step."""
        layer, shots = self.absorbing_cells, len(self.sources)
        padded = np.pad(velocity, layer, mode="edge")
        (height, width), strip = padded.shape, layer + HALO
        pitch = (width + 2 * HALO) * shots
        square, twice = self._coefficients(padded, step)
        now, before = _zeros((height + 2 * HALO) * pitch), _zeros((height + 2 * HALO) * pitch)
        second, spare, second_y = _zeros(height * pitch), _zeros(height * pitch), _zeros(strip, pitch)

        # of each layer: zeta, two buffers and two coefficients; and psi, which has a halo
        side = [_zeros(height, 2, strip * shots) for _ in range(3)]
        top, bottom = ([_zeros(strip, pitch) for _ in range(3)] for _ in range(2))
        for profile in self._profiles(velocity.shape[1], fastest, step):
            both = np.stack([profile[HALO : HALO + strip], profile[-HALO - strip : -HALO]])
            side.append(np.repeat(both, shots, axis=1))
        for profile in self._profiles(velocity.shape[0], fastest, step):
            top.append(profile[HALO : HALO + strip, None])
            bottom.append(profile[-HALO - strip : -HALO, None])
        wide = (strip + 2 * HALO) * shots
        psi_x, apart = _zeros(height * 2 * wide), (width - strip) * shots
        psi_top, psi_bottom = (
            _shifts(_zeros((strip + 2 * HALO) * pitch), (strip, pitch), (pitch, 1), HALO * pitch, pitch)
            for _ in range(2)
        )

        source = _zeros(width + 2 * HALO, shots)
        for shot, column in enumerate(self.sources):
            source[HALO + layer + column, shot] = velocity[self.depth, column] ** 2 * np.float32(step * step)
        source, injected = source.reshape(-1), _zeros(pitch)
        records = np.empty((len(strength), velocity.shape[1] * shots), np.float32)

        reach = 0
        for i, rows in enumerate(self._rows(padded, step, len(strength))):
            if rows != reach:
                reach = rows
                views, views_before = (self._views(field, reach, height, width) for field in (now, before))
                inner = len(views[1][2])
                second_r, spare_r = second[: reach * pitch], spare[: reach * pitch]
                second_in, spare_in = second[strip * pitch : strip * pitch + inner], spare[:inner]
                square_r, twice_r = square[: reach * pitch], twice[: reach * pitch]
                second_x = _view(second, (reach, 2, strip * shots), (pitch, apart, 1), HALO * shots)
                psi_r = _shifts(psi_x, (reach, 2, strip * shots), (2 * wide, wide, 1), HALO * shots, shots)
                side_r = [*(each[:reach] for each in side[:3]), *side[3:]]
            across, down, sides, upper, lower, _ = views

            _neighbours(second_r, across)
            np.multiply(sides[2], _MIDDLE, out=side_r[1])
            second_x += side_r[1]
            _absorb(second_x, sides, psi_r, side_r)
            np.add(down[1], down[3], out=spare_in)
            second_in += spare_in
            np.add(down[0], down[4], out=spare_in)
            spare_in *= _FAR
            second_in += spare_in
            _second_difference(second_y, upper, top[1])
            _absorb(second_y, upper, psi_top, top)
            second[: strip * pitch] += second_y.reshape(-1)
            if reach == height:
                _second_difference(second_y, lower, bottom[1])
                _absorb(second_y, lower, psi_bottom, bottom)
                second[-strip * pitch :] += second_y.reshape(-1)

            after, (source_row, receiver_row) = views_before[0][2], views_before[5]
            second_r *= square_r
            np.multiply(twice_r, across[2], out=spare_r)
            second_r += spare_r
            np.subtract(second_r, after, out=after)
            np.multiply(source, np.float32(strength[i]), out=injected)
            source_row += injected
            records[i] = receiver_row
            now, before = before, now
            views, views_before = views_before, views
        return records

    def _coefficients(self, padded: Array, step: float) -> tuple[Array, Array]:
        """Of the second differences and of the wavefield in a step, flat and without the rows of the halo."""
        strip = self.absorbing_cells + HALO
        square = np.pad((padded * np.float32(step / self.cell)) ** 2 * np.float32(4.0 / 3.0), ((0, 0), (HALO, HALO)))
        across, down = np.ones(square.shape[1], np.float32), np.ones((square.shape[0], 1), np.float32)
        across[HALO : HALO + strip] = across[-HALO - strip : -HALO] = 0.0
        down[:strip] = down[-strip:] = 0.0
        twice = np.float32(2.0) - np.float32(1.875) * square * (across + down)
        shots = len(self.sources)
        return np.repeat(square.reshape(-1), shots), np.repeat(twice.reshape(-1), shots)

    def _views(self, field: Array, reach: int, height: int, width: int) -> list[list[Array]]:
        """Views of a wavefield's first rows, all but the last two at -2 to 2 cells.

        The neighbours across, of all rows, and down, of the rows between the strips; the strips at the sides, top and
        bottom; the row of the sources and that of the receivers.
        """
        layer, shots = self.absorbing_cells, len(self.sources)
        strip, pitch = layer + HALO, (width + 2 * HALO) * shots
        start, end = HALO * pitch, (HALO + height - strip) * pitch
        inner = (reach - strip if reach < height else height - 2 * strip) * pitch
        sides = (pitch, (width - strip) * shots, 1)
        row = (HALO + layer + self.depth) * pitch
        first, last = row + (HALO + layer) * shots, row + (HALO + width - layer) * shots
        return [
            _shifts(field, (reach * pitch,), (1,), start, shots),
            _shifts(field, (inner,), (1,), start + strip * pitch, pitch),
            _shifts(field, (reach, 2, strip * shots), sides, start + HALO * shots, shots),
            _shifts(field, (strip, pitch), (pitch, 1), start, pitch),
            _shifts(field, (strip, pitch), (pitch, 1), end, pitch),
            [field[row : row + pitch], field[first:last]],
        ]

    def _profiles(self, cells: int, fastest: float, step: float) -> tuple[Array, Array]:
        """Coefficients of the layers' variables along one axis, (cells + 2 layers + 2 halos,)."""
        layer, length = self.absorbing_cells, cells + 2 * (self.absorbing_cells + HALO)
        index = np.arange(length, dtype=np.float64)
        inwards = np.minimum(index, length - 1 - index)
        depth = np.clip((HALO + layer - inwards) / layer, 0.0, 1.0)
        damping = (-3.0 * fastest * math.log(REFLECTION) / (2.0 * layer * self.cell)) * depth**2
        shift = (math.pi * self.peak_frequency) * (1.0 - depth)
        keep = np.exp(-(damping + shift) * step)
        gain = damping / (damping + shift) * (keep - 1.0)
        return (keep * (depth > 0.0)).astype(np.float32), gain.astype(np.float32)

    def _rows(self, padded: Array, step: float, steps: int) -> list[int]:
        """Rows to compute at each step: those a wave can have reached and can return from in time."""
        height, layer = padded.shape[0], self.absorbing_cells
        times = np.cumsum(np.float32(self.cell) / padded[layer:].max(axis=1))
        moments = np.arange(steps) * step
        limits = np.minimum(moments, self.samples * self.time_step + TAIL - moments)
        rows = (layer + np.searchsorted(times, limits, side="right") + 6 + 7) // 8 * 8
        return np.where(rows <= height - layer - HALO, np.maximum(rows, layer + 8), height).tolist()


_FAR, _MIDDLE, _FAR_SLOPE, _THIRD = np.float32(-0.0625), np.float32(-1.875), np.float32(0.125), np.float32(1.0 / 3.0)


def _zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def _waves(phase: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.cos(phase), np.sin(phase)])


def _view(field: Array, size: tuple[int, ...], stride: tuple[int, ...], start: int) -> Array:
    return as_strided(field[start:], size, tuple(each * field.itemsize for each in stride))


def _shifts(field: Array, size: tuple[int, ...], stride: tuple[int, ...], start: int, step: int) -> list[Array]:
    """Views of a flat buffer at -2, -1, 0, 1 and 2 steps from ``start``."""
    return [_view(field, size, stride, start + i * step) for i in (-2, -1, 0, 1, 2)]


def _neighbours(out: Array, field: list[Array]) -> None:
    np.add(field[0], field[4], out=out)
    out *= _FAR
    out += field[1]
    out += field[3]


def _second_difference(out: Array, field: list[Array], spare: Array) -> None:
    _neighbours(out, field)
    np.multiply(field[2], _MIDDLE, out=spare)
    out += spare


def _slope(out: Array, field: list[Array]) -> None:
    np.subtract(field[0], field[4], out=out)
    out *= _FAR_SLOPE
    out += field[3]
    out -= field[1]


def _absorb(second: Array, field: list[Array], psi: list[Array], layer: list[Array]) -> None:
    """Stretch one axis's second difference inside the absorbing layers, in place."""
    zeta, slope, spare, keep, gain = layer
    _slope(slope, field)
    slope *= gain
    slope *= _THIRD
    psi[2][...] *= keep
    psi[2][...] += slope
    _slope(slope, psi)
    second += slope
    zeta *= keep
    np.multiply(gain, second, out=spare)
    zeta += spare
    second += zeta
