"""The wave equation in PyTorch: the shot gathers of velocity maps, in a form that TorchScript can carry.

Constant density, second order in time, fourth in space, edges absorbed by convolutional perfectly matched layers
(Pasalic & McGarry 2010). The numbers are those of deepwave's ``scalar`` (accuracy 4, ``pml_freq`` the wavelet's).
``ubq.runtime.wave`` is the same in numpy.

Three things make it quick where every operation is a pass over memory:

- The shots of a map lie innermost, so that a whole wavefield is one flat vector, and a neighbour a shift of it.
- The time step is as long as the map's fastest velocity allows. In the frequency domain, what a time step of second
  order does to a wave is a change of frequency alone, so the source is made for the long step, and the records are
  given back the dispersion of the reference's step exactly (Koene et al. 2018), while they are resampled.
- Rows that a wave cannot reach, or cannot return from in time to be recorded, are left out.

Signs: of four time steps, the third and fourth hold the wavefield negated. A step is then ``before += +-(...)`` in
place, without a pass to negate ``before``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["WaveEquation"]


class WaveEquation(nn.Module):
    """Shot gathers of velocity maps.

    Args:
        sources: cells across of the sources.
        samples: time samples of a gather, T; the first is one time step after the wavelet's start.
        depth: of sources and receivers, cells.
        cell: grid spacing, m.
        time_step: sampling interval of the gathers, s.
        peak_frequency: of the Ricker wavelet, Hz.
        wavelet_peak: when the wavelet peaks, s.
        absorbing_cells: width of the absorbing layers.
    """

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
        super().__init__()
        self.sources = list(sources)
        self.samples = samples
        self.depth = depth
        self.cell = cell
        self.time_step = time_step
        self.peak_frequency = peak_frequency
        self.wavelet_peak = wavelet_peak
        self.absorbing_cells = absorbing_cells
        self.halo = 2  # reach of the differences, cells
        self.longest_step = 2.5e-3  # s: slow maps could take longer ones, but the band must stay well sampled
        self.courant = 0.56  # of the solver's step; these differences are stable up to 0.61
        self.reference_courant = 0.6  # times 1 / sqrt 2: where the reference halves its step
        self.reflection = 1e-3  # of the absorbing layers, by design
        self.band = 4.2  # highest frequency kept, in peak frequencies: a Ricker wavelet holds 4e-7 of its peak there
        self.tail = 0.04  # s solved beyond the last sample, over which the records fade out

    def forward(self, velocity: Tensor) -> Tensor:
        """Velocity (B, 1, H, W) in m/s -> gathers (B, S, T, W), a receiver at every cell across; computed on the CPU.

        Raises:
            ValueError: a velocity that is not positive and finite (``torch.jit.Error`` inside an exported file).
        """
        with torch.no_grad():
            gathers = [self._gather(each[0].float().cpu()) for each in velocity]
            return torch.stack(gathers).to(velocity.device)

    def _gather(self, velocity: Tensor) -> Tensor:
        """Map (H, W) -> (S, T, W)."""
        fastest = float(velocity.max())
        if not (float(velocity.min()) > 0.0 and fastest < math.inf):
            raise ValueError("velocities must be positive and finite")
        step = min(self.courant * self.cell / fastest, self.longest_step)
        steps = math.ceil((self.samples * self.time_step + self.tail) / step)
        amplitudes, analysis, synthesis = self._dispersion(fastest, step, steps)
        records = self._solve(velocity, fastest, step, amplitudes)
        gather = synthesis @ (analysis @ records)
        return gather.view(self.samples, velocity.shape[1], len(self.sources)).permute(2, 0, 1).contiguous()

    def _dispersion(self, fastest: float, step: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Source amplitudes (steps,), and the matrices that turn records into samples: (2F, steps), (T, 2F).

        A second-order step h moves a wave of frequency w as the exact equation does one of 2/h sin(w h / 2). ``exact``
        are frequencies under the reference's step, ``solved`` those of the same waves under ours.
        """
        double = torch.float64
        duration = self.samples * self.time_step
        halvings = math.ceil(fastest * self.time_step * math.sqrt(2.0) / self.cell / self.reference_courant)
        reference = self.time_step / halvings
        period = duration + self.tail + 0.1
        count = math.ceil(self.band * self.peak_frequency * period)
        exact = torch.arange(count + 1, dtype=double) * (2.0 * math.pi / period)
        weights = torch.full([count + 1], 2.0 / period, dtype=double)
        weights[0] *= 0.5
        # Each function meets a short vector first: MKL chooses its kernels at the first call, which several threads,
        # given a long one, would make at once (PyTorch issue 188792).
        sine = torch.sin(exact * (reference / 2.0))
        solved = torch.asin(sine * (step / reference)) * (2.0 / step)
        stretch = torch.cos(exact * (reference / 2.0)) / torch.cos(solved * (step / 2.0))

        time = torch.arange(self.samples + 1, dtype=double) * self.time_step
        argument = (math.pi * self.peak_frequency * (time - self.wavelet_peak)).square()
        wavelet = (1.0 - 2.0 * argument) * torch.exp(-argument)
        phase = exact[:, None] * time
        spectrum = torch.cat([torch.cos(phase), torch.sin(phase)]) @ wavelet * self.time_step
        phase = solved[:, None] * (torch.arange(steps, dtype=double) * step)
        source = spectrum * (stretch * weights).repeat(2)
        amplitudes = source @ torch.cat([torch.cos(phase), torch.sin(phase)])

        recorded = torch.arange(1, steps + 1, dtype=double) * step
        start = duration + 0.1 * self.tail
        fade = 0.5 + 0.5 * torch.cos(math.pi * ((recorded - start) / (steps * step - start)).clamp(0.0, 1.0))
        signs = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=double).repeat(steps // 4 + 1)[:steps]
        phase = solved[:, None] * recorded
        analysis = torch.cat([torch.cos(phase), torch.sin(phase)]) * (fade * signs)
        phase = time[1:, None] * exact
        synthesis = torch.cat([torch.cos(phase), torch.sin(phase)], dim=1) * (weights * step).repeat(2)
        return amplitudes.float(), analysis.float(), synthesis.float()

    def _solve(self, velocity: Tensor, fastest: float, step: float, amplitudes: Tensor) -> Tensor:
        """Records (steps, W S) of the wavefield after each step, with the signs of the module's docstring.

        A wavefield is (rows, columns, shots): the map and its absorbing layers, and around them a halo that stays zero.
        The strips of the absorbing layers reach ``halo`` cells inwards, as far as their variables' derivatives do.
        """
        halo, layer, shots = self.halo, self.absorbing_cells, len(self.sources)
        padded = nn.functional.pad(velocity[None, None], (layer, layer, layer, layer), mode="replicate")[0, 0]
        height, width, strip = padded.shape[0], padded.shape[1], layer + halo
        pitch = (width + 2 * halo) * shots  # one row further in the flat vector
        square, twice = self._coefficients(padded, step)
        now, before = torch.zeros((height + 2 * halo) * pitch), torch.zeros((height + 2 * halo) * pitch)
        second, second_y = torch.zeros(height * pitch), torch.zeros(strip, pitch)

        # of each layer: zeta, a buffer for the slope and two coefficients; and psi, which has a halo
        keep, gain = self._profiles(velocity.shape[1], fastest, step)
        side = [torch.zeros(height, 2, strip * shots), torch.zeros(height, 2, strip * shots)]
        for profile in (keep, gain):
            both = torch.stack([profile[halo : halo + strip], profile[-halo - strip : -halo]])
            side.append(both[:, :, None].expand(-1, -1, shots).reshape(2, strip * shots))
        keep, gain = self._profiles(velocity.shape[0], fastest, step)
        top = [torch.zeros(strip, pitch), torch.zeros(strip, pitch)]
        bottom = [torch.zeros(strip, pitch), torch.zeros(strip, pitch)]
        for profile in (keep, gain):
            top.append(profile[halo : halo + strip, None])
            bottom.append(profile[-halo - strip : -halo, None])
        wide = (strip + 2 * halo) * shots
        psi_x, apart = torch.zeros(height * 2 * wide), (width - strip) * shots
        psi_top = _shifts(torch.zeros((strip + 2 * halo) * pitch), [strip, pitch], [pitch, 1], halo * pitch, pitch)
        psi_bottom = _shifts(torch.zeros((strip + 2 * halo) * pitch), [strip, pitch], [pitch, 1], halo * pitch, pitch)

        source = torch.zeros(width + 2 * halo, shots)
        for shot, column in enumerate(self.sources):
            source[halo + layer + column, shot] = velocity[self.depth, column].square() * (step * step)
        source = source.view(-1)
        strength: list[float] = amplitudes.tolist()
        records = torch.empty(len(strength), velocity.shape[1] * shots)
        rows = self._rows(padded, step, len(strength))

        sign, sign_before = 1.0, -1.0
        reach = 0
        # of the types that they have from the first step on
        views, views_before = [[psi_top]], [[psi_top]]
        second_x, psi_r, side_r = second, psi_top, side
        seconds, seconds_in, squares, twices = side, side, side, side
        for i, strength_i in enumerate(strength):
            if rows[i] != reach:
                reach = rows[i]
                views = self._views(now, reach, height, width)
                views_before = self._views(before, reach, height, width)
                inner = (reach - strip if reach < height else height - 2 * strip) * pitch
                seconds, seconds_in = _pieces(second, 0, reach * pitch), _pieces(second, strip * pitch, inner)
                squares, twices = _pieces(square, 0, reach * pitch), _pieces(twice, 0, reach * pitch)
                second_x = second.as_strided([reach, 2, strip * shots], [pitch, apart, 1], halo * shots)
                psi_r = _shifts(psi_x, [reach, 2, strip * shots], [2 * wide, wide, 1], halo * shots, shots)
                side_r = [side[0][:reach], side[1][:reach], side[2], side[3]]
            across, down, strips = views[0], views[1], views[2]

            for out, near in zip(seconds, across):  # noqa: B905 (TorchScript's zip knows no strict)
                torch.add(near[1], near[3], out=out)
                out.add_(near[0], alpha=-0.0625).add_(near[4], alpha=-0.0625)
            second_x.add_(strips[0][2], alpha=-1.875)
            _absorb(second_x, strips[0], psi_r, side_r, sign)
            for out, near in zip(seconds_in, down):  # noqa: B905
                out.add_(near[1]).add_(near[3]).add_(near[0], alpha=-0.0625).add_(near[4], alpha=-0.0625)
            _second_difference(second_y, strips[1])
            _absorb(second_y, strips[1], psi_top, top, sign)
            second[: strip * pitch].add_(second_y.view(-1))
            if reach == height:
                _second_difference(second_y, strips[2])
                _absorb(second_y, strips[2], psi_bottom, bottom, sign)
                second[-strip * pitch :].add_(second_y.view(-1))

            turn = -sign_before * sign
            for piece, after in enumerate(views_before[0]):
                after[2].addcmul_(twices[piece], across[piece][2], value=turn)
                after[2].addcmul_(squares[piece], seconds[piece], value=turn)
            source_row, receiver_row = views_before[2][3][0], views_before[2][3][1]
            source_row.add_(source, alpha=-sign_before * strength_i)
            records[i].copy_(receiver_row)
            sign, sign_before = -sign_before, sign
            now, before = before, now
            views, views_before = views_before, views
        return records

    def _coefficients(self, padded: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Of the second differences and of the wavefield in a step, flat and without the rows of the halo.

        The differences are in units of 4/3 / cell^2, which makes the nearest neighbours' weight 1: those of second
        order are then 1 and -1/16 at 1 and 2 cells, and -15/8 in the middle. The middle is in the wavefield's
        coefficient, but in the strips, where it has a part in other terms.
        """
        halo, strip, shots = self.halo, self.absorbing_cells + self.halo, len(self.sources)
        square = nn.functional.pad((padded * (step / self.cell)).square() * (4.0 / 3.0), (halo, halo))
        across, down = torch.ones(square.shape[1]), torch.ones(square.shape[0])
        across[halo : halo + strip], across[-halo - strip : -halo] = 0.0, 0.0
        down[:strip], down[-strip:] = 0.0, 0.0
        twice = 2.0 - 1.875 * square * (across + down[:, None])
        return (
            square[:, :, None].expand(-1, -1, shots).reshape(-1),
            twice[:, :, None].expand(-1, -1, shots).reshape(-1),
        )

    def _views(self, field: Tensor, reach: int, height: int, width: int) -> list[list[list[Tensor]]]:
        """Views of a wavefield's first rows, most of them at -2 to 2 cells.

        In pieces the neighbours across, of all rows, and down, of the rows between the strips; then the strips at the
        sides, top and bottom, and the row of the sources and that of the receivers.
        """
        halo, layer, shots = self.halo, self.absorbing_cells, len(self.sources)
        strip, pitch = layer + halo, (width + 2 * halo) * shots
        start, end = halo * pitch, (halo + height - strip) * pitch
        inner = (reach - strip if reach < height else height - 2 * strip) * pitch
        sides = [pitch, (width - strip) * shots, 1]
        row = (halo + layer + self.depth) * pitch
        first, last = row + (halo + layer) * shots, row + (halo + width - layer) * shots
        return [
            _shifted_pieces(field, start, reach * pitch, shots),
            _shifted_pieces(field, start + strip * pitch, inner, pitch),
            [
                _shifts(field, [reach, 2, strip * shots], sides, start + halo * shots, shots),
                _shifts(field, [strip, pitch], [pitch, 1], start, pitch),
                _shifts(field, [strip, pitch], [pitch, 1], end, pitch),
                [field[row : row + pitch], field[first:last]],
            ],
        ]

    def _profiles(self, cells: int, fastest: float, step: float) -> tuple[Tensor, Tensor]:
        """Coefficients a and b of the layers' variables along one axis, (cells + 2 layers + 2 halos,).

        Each variable becomes a times itself plus b times what drives it (Komatitsch & Martin 2007).
        """
        layer, length = self.absorbing_cells, cells + 2 * (self.absorbing_cells + self.halo)
        index = torch.arange(length, dtype=torch.float64)
        inwards = torch.minimum(index, length - 1 - index)
        depth = ((self.halo + layer - inwards) / layer).clamp(0.0, 1.0)
        damping = (-3.0 * fastest * math.log(self.reflection) / (2.0 * layer * self.cell)) * depth.square()
        shift = (math.pi * self.peak_frequency) * (1.0 - depth)
        keep = torch.exp(-(damping + shift) * step)
        gain = damping / (damping + shift) * (keep - 1.0)
        return (keep * (depth > 0.0)).float(), gain.float()

    def _rows(self, padded: Tensor, step: float, steps: int) -> list[int]:
        """Rows to compute at each step: those a wave can have reached and can return from before the last sample.

        Always the top layer and some rows below it; all rows as soon as the bottom layer is needed.
        """
        height, layer = padded.shape[0], self.absorbing_cells
        times: list[float] = (self.cell / padded[layer:].amax(dim=1)).cumsum(0).tolist()
        last = self.samples * self.time_step + self.tail
        rows: list[int] = []
        for i in range(steps):
            limit = min(i * step, last - i * step)
            row = 0
            while row < len(times) and times[row] <= limit:
                row += 1
            row = (layer + row + 6 + 7) // 8 * 8  # in eights: new views are made where it changes
            rows.append(max(row, layer + 8) if row <= height - layer - self.halo else height)
        return rows


def _shifts(field: Tensor, size: list[int], stride: list[int], start: int, step: int) -> list[Tensor]:
    """Views of a flat buffer at -2, -1, 0, 1 and 2 steps from ``start``."""
    return [field.as_strided(size, stride, start + i * step) for i in (-2, -1, 0, 1, 2)]


def _pieces(field: Tensor, start: int, size: int) -> list[Tensor]:
    """A stretch of a flat buffer in equal pieces, each too short for PyTorch to share it out among threads.

    From 32,768 elements on it would, at every operation, and what threads need to meet takes longer than the work; on a
    busy machine thirty times as long.
    """
    count = size // 32768 + 1
    piece = (size + count - 1) // count
    return [field[start + first : start + min(first + piece, size)] for first in range(0, size, piece)]


def _shifted_pieces(field: Tensor, start: int, size: int, step: int) -> list[list[Tensor]]:
    """``_pieces`` at -2, -1, 0, 1 and 2 steps: [piece][shift]."""
    shifted = [_pieces(field, start + i * step, size) for i in (-2, -1, 0, 1, 2)]
    return [[shift[i] for shift in shifted] for i in range(len(shifted[0]))]


def _second_difference(out: Tensor, field: list[Tensor]) -> None:
    torch.add(field[1], field[3], out=out)
    out.add_(field[0], alpha=-0.0625).add_(field[4], alpha=-0.0625).add_(field[2], alpha=-1.875)


def _absorb(second: Tensor, field: list[Tensor], psi: list[Tensor], layer: list[Tensor], sign: float) -> None:
    """Stretch one axis's second difference inside the absorbing layers, in place.

    psi and zeta keep the true sign; ``second`` and ``field`` have that of the wavefield. The slope's own factor of 2/3
    is in psi twice, hence 4/9 of 4/3: one third.
    """
    zeta, slope, keep, gain = layer[0], layer[1], layer[2], layer[3]
    torch.sub(field[3], field[1], out=slope)
    slope.add_(field[4], alpha=-0.125).add_(field[0], alpha=0.125)
    psi[2].mul_(keep).addcmul_(gain, slope, value=sign / 3.0)
    second.add_(psi[3], alpha=sign).add_(psi[1], alpha=-sign)
    second.add_(psi[4], alpha=-0.125 * sign).add_(psi[0], alpha=0.125 * sign)
    zeta.mul_(keep).addcmul_(gain, second, value=sign)
    second.add_(zeta, alpha=sign)
