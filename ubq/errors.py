"""Errors that are the user's to fix: one clear line each, and a documented exit code.

Anything else that is raised is a defect of ubq and keeps its traceback in ``run.log``.
"""

from __future__ import annotations

import errno

EXIT_OK = 0
EXIT_STAGE_FAILED = 1
EXIT_USAGE = 2
EXIT_PREFLIGHT = 3
EXIT_HELD = 4
EXIT_MARK_FAILED = 5
EXIT_HANGUP = 129
EXIT_INTERRUPT = 130
EXIT_TERMINATE = 143

NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
"""Numbers of the errors of a full disk, or of a quota that is used up."""


class UbqError(Exception):
    """A failure that the user can fix.

    Args:
        message: what is wrong and where (the file, the sample, the key), without a full stop.
        fix: the command or configuration key that fixes it.
    """

    exit_code = EXIT_STAGE_FAILED

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class UsageError(UbqError):
    """Wrong arguments, configuration or input files."""

    exit_code = EXIT_USAGE


class DataError(UsageError):
    """A data file or folder that cannot be used."""


class CheckpointError(UsageError):
    """A checkpoint file that cannot be used."""


class StageError(UbqError):
    """A stage could not do its work."""


class DivergedError(StageError):
    """Training left the numbers that are finite; nothing of that was saved."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for a failed allocation on a device or on the host; torch has no one type for them.

    The libraries that CUDA's kernels come from fail in their own words: ``CUBLAS_STATUS_ALLOC_FAILED``,
    ``CUDNN_STATUS_ALLOC_FAILED``, ``CUFFT_ALLOC_FAILED``.
    """
    text = str(error).lower()
    marks = (
        "can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "std::bad_alloc",
        "_alloc_failed",
    )  # fmt: skip
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(mark in text for mark in marks))


class PreflightError(UbqError):
    """The machine cannot carry the run: disk, memory, device, data."""

    exit_code = EXIT_PREFLIGHT


class HeldError(UbqError):
    """Another process holds the run."""

    exit_code = EXIT_HELD


class MarkFailedError(UbqError):
    """A stage did its work, but the model does not meet a success mark."""

    exit_code = EXIT_MARK_FAILED
