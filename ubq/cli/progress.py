"""Progress of commands that are no runs: drawn on stderr, so that stdout stays data."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ubq.cli.output import say
from ubq.i18n import gettext as _

_PLAIN_SECONDS = 5.0


@contextmanager
def progress(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line now and then elsewhere; both on stderr, with rate and time left."""
    from ubq.figures import duration

    printed = time.monotonic()
    base: tuple[int, float] | None = None
    resting = -1

    def figures(done: int, total: int) -> str:
        """Rate and ETA, counted from the first of this call's own work: neither what was there nor the start-up."""
        nonlocal base, resting
        now = time.monotonic()
        if resting < 0:
            resting = done
        if base is None and done > resting:
            base = done, now
        if base is None or done == base[0] or now == base[1]:
            return ""
        rate = (done - base[0]) / (now - base[1])
        text = _("{rate:.3g} {unit}/s").format(rate=rate, unit=unit)
        return text + (_("  ETA {time}").format(time=duration((total - done) / rate)) if done < total else "")

    if not sys.stderr.isatty():

        def plain(done: int, total: int) -> None:
            nonlocal printed
            text = figures(done, total)
            if time.monotonic() - printed >= _PLAIN_SECONDS:
                printed = time.monotonic()
                say(f"{label} {done}/{total} {unit}  {text}".rstrip(), err=True)

        yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bars:
        task = bars.add_task(label, total=1, figures="")
        yield lambda done, total: bars.update(task, completed=done, total=max(total, 1), figures=figures(done, total))
