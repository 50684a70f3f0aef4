"""What one check found: the object that preflight, ``ubq doctor`` and the text UI's checklist share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ubq.errors import UbqError
from ubq.i18n import gettext as _
from ubq.plaintext import printable

CheckStatus = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding about the machine, the configuration or a run.

    Args:
        id: stable name, dotted by area (``environment.disk``); what ``--json`` and the UI look up.
        status: ``failed`` stops a run (exit 3), ``warning`` does not.
        figure: what was measured, with its unit (``3.1 GB free in runs/``).
        why: why it matters, one sentence.
        fix: the exact command or configuration key that fixes it; empty when there is nothing to do.
        apply: configuration keys and the values that fix it, for a front end that offers to set them.
    """

    id: str
    status: CheckStatus
    figure: str
    why: str = ""
    fix: str = ""
    apply: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Names of files, words of a checkpoint and of reports stand in them.
        for name in ("figure", "why", "fix"):
            object.__setattr__(self, name, printable(getattr(self, name)))

    @property
    def failed(self) -> bool:
        """Whether this check alone stops a run."""
        return self.status == "failed"

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of ``ubq doctor --json``."""
        return asdict(self)


def check_name(check_id: str) -> str:
    """What a check looked at, by its ``id``; the id where there is no word for it."""
    names = {
        "checkpoint.decoder_path": _("checkpoint of the decoders"),
        "checkpoint.normalization": _("ranges of the checkpoint"),
        "checkpoint.path": _("checkpoint"),
        "checkpoint.trained": _("checkpoint is trained"),
        "data": _("input files"),
        "data.content": _("samples"),
        "data.family": _("data set"),
        "data.files": _("data"),
        "data.readable": _("data"),
        "data.shape": _("shapes of the data"),
        "device": _("device"),
        "disk": _("disk space"),
        "environment.cuda": _("CUDA"),
        "environment.disk": _("disk space"),
        "environment.engines": _("integer engines"),
        "environment.extras": _("optional packages"),
        "environment.locale": _("language and encoding"),
        "environment.memory": _("memory"),
        "environment.packages": _("packages"),
        "environment.python": _("Python"),
        "environment.terminal": _("terminal"),
        "environment.threads": _("threads"),
        "memory": _("memory"),
        "parameters.qat": _("quantisation-aware training"),
        "parameters.scheme": _("quantisation scheme"),
        "parameters.valid": _("configuration"),
        "physics": _("forward modelling"),
        "run.memory": _("memory of the run"),
        "run.parts": _("smaller parts"),
        "run.readable": _("files of the run"),
        "run.state": _("state of the run"),
    }
    area, _dot, rest = check_id.partition(".")
    if area == "preflight" and rest:
        return _("before the start: {check}").format(check=check_name(rest))
    return names.get(check_id, check_id)


def worst(checks: Iterable[Check]) -> CheckStatus:
    """The gravest status among ``checks``; ``ok`` when there are none."""
    statuses = {c.status for c in checks}
    for status in ("failed", "warning"):
        if status in statuses:
            return status
    return "ok"


def guarded(area: str, area_checks: Callable[[], Iterable[Check]]) -> list[Check]:
    """The checks of one area; what breaks in it becomes one of them."""
    checks: list[Check] = []
    try:
        checks.extend(area_checks())
    except UbqError as error:
        checks.append(Check(id=f"{area}.readable", status="failed", figure=error.message, fix=error.fix))
    except Exception as error:
        figure = _("could not be checked: {error}").format(error=f"{type(error).__name__}: {error}".splitlines()[0])
        checks.append(Check(id=f"{area}.checked", status="warning", figure=figure))
    return checks
