"""Errors of the operating system in words: which file, what is wrong with it, what helps."""

from __future__ import annotations

import errno
import os

from ubq.errors import NO_SPACE, StageError, UbqError, UsageError
from ubq.i18n import gettext as _


def of_the_system(error: OSError) -> UbqError:
    """What an error of the operating system means to the user: the file, what is wrong with it, what helps."""
    what = error.strerror or type(error).__name__
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else ""
    where = os.fsdecode(name) if name else ""
    message = f"{where}: {what}" if where else what
    if error.errno in NO_SPACE:
        return StageError(message, _("make room on that disk"))
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(message, _("choose a shorter name"))
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(message, _("choose another folder, or change its permissions"))
    return UsageError(message, _("check the path"))
