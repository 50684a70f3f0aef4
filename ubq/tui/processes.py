"""Other processes that the user interface asks: the probe, and ``ubq … --json`` commands, each cancellable."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from ubq.i18n import gettext as _
from ubq.plaintext import printable, printable_within


def _environment() -> dict[str, str]:
    return {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


async def ubq_json(*arguments: str, timeout: float) -> dict[str, Any]:
    """The JSON object that ``ubq ARGUMENTS`` prints, whatever its exit code; cancelling ends the process.

    Returns:
        The object, or ``{"error": …, "fix": …}`` where there was none in time; ``told`` where the command itself said
        what is wrong.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ubq",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(),
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout)
    except TimeoutError:
        return {"error": _("no answer after {seconds:.0f} s").format(seconds=timeout), "fix": ""}
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer = printable_within(json.loads(out))
        return answer if isinstance(answer, dict) else {"error": _("no answer"), "fix": ""}
    except ValueError:
        stderr = printable(err.decode(errors="replace"))
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        at = next((i for i, line in enumerate(lines) if line.startswith(_("error: {error}").format(error=""))), None)
        if at is None:
            return {"error": lines[-1] if lines else _("no answer"), "fix": ""}
        return {"error": lines[at].partition(" ")[2], "fix": "".join(lines[at + 1 : at + 2]), "told": True}


class Lookup:
    """The process of :mod:`ubq.tui.lookup`; started when first asked, one question at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def ask(self, question: str, file: str, text: str, timeout: float = 120.0) -> dict[str, Any]:
        """The answer, or ``{"error": …}``.

        A question that is cancelled or too slow ends the process; the next one starts it again.
        """
        async with self._lock:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            request = json.dumps({"ask": question, "file": file, "text": text}) + "\n"
            answered = False
            try:
                process.stdin.write(request.encode())
                await process.stdin.drain()
                line = await asyncio.wait_for(process.stdout.readline(), timeout)
                answered = bool(line)
                return printable_within(json.loads(line)) if line else {"error": _("no answer"), "fix": ""}
            except TimeoutError:
                return {"error": _("no answer after {seconds:.0f} s").format(seconds=timeout), "fix": ""}
            except (OSError, ValueError) as error:
                return {"error": printable(str(error)), "fix": ""}
            finally:
                if not answered:
                    await self.close()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "ubq.tui.lookup",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
                limit=2**22,
            )
        return self._process

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
