"""The command tree of ``ubq``. A command's module is imported when it is needed, and torch when it runs."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ubq.cli.output import say
from ubq.errors import EXIT_INTERRUPT, EXIT_OK, EXIT_STAGE_FAILED, EXIT_USAGE, UbqError, is_out_of_memory
from ubq.i18n import gettext as _
from ubq.i18n import set_language
from ubq.oserrors import of_the_system

COMMANDS = {
    "run": "ubq.cli.jobs:run",
    "resume": "ubq.cli.jobs:resume",
    "status": "ubq.cli.jobs:status",
    "runs": "ubq.cli.jobs:runs",
    "logs": "ubq.cli.jobs:logs",
    "attach": "ubq.cli.jobs:attach",
    "stop": "ubq.cli.jobs:stop",
    "submit": "ubq.cli.submit:submit",
    "wizard": "ubq.cli.wizard:wizard",
    "doctor": "ubq.cli.doctor:doctor",
    "report": "ubq.cli.report:report",
    "export": "ubq.cli.export:app",
    "sample": "ubq.cli.sample:sample",
    "bench": "ubq.cli.bench:app",
    "deploy": "ubq.cli.deploy:deploy",
    "config": "ubq.cli.config:app",
    "presets": "ubq.cli.presets:app",
    "data": "ubq.cli.data:app",
    "checkpoint": "ubq.cli.checkpoint:app",
    "quant": "ubq.cli.quant:app",
}
"""Name of each command -> ``module:attribute``, a Typer app or a function, in the order of ``--help``."""

# The bases of Typer's own errors: Typer carries its own copy of click from some version on, so click is not imported.
_CliUsageError: Any = typer.BadParameter.__mro__[1]
_CliError: Any = typer.BadParameter.__mro__[2]


class LazyGroup(TyperGroup):
    """Commands from :data:`COMMANDS`; those whose module is not installed are not listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in COMMANDS if _module_exists(COMMANDS[name].partition(":")[0])]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        module, _colon, attribute = COMMANDS[cmd_name].partition(":")
        entry_point = getattr(importlib.import_module(module), attribute)
        if not isinstance(entry_point, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(cmd_name)(entry_point)
            entry_point = single
        for info in entry_point.registered_commands:
            if info.callback and not hasattr(info.callback, "expands"):
                info.callback = _expanding(info.callback)
                info.callback.expands = True  # type: ignore[attr-defined]
        command = _translated(typer.main.get_command(entry_point))
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            close = get_close_matches(args[0], names, n=1)
            hint = _("did you mean {close}?").format(close=close[0]) if close else _("list them with: ubq --help")
            raise UsageProblem(_("there is no command {name}").format(name=args[0]), hint)
        return super().resolve_command(ctx, args)


def _translated(command: Any) -> Any:
    """A command and what is below it with their help in the chosen language; Typer knows of none."""
    if command.help:
        command.help = _(command.help)
    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = _(parameter.help)
    for below in getattr(command, "commands", {}).values():
        _translated(below)
    return command


def _expanding(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command that expands ``~`` in its paths first: a shell does not in ``--runs-dir=~/x``."""

    def expand(value: Any) -> Any:
        from ubq.config.runs import expanded

        if isinstance(value, list):
            return [expand(v) for v in value]
        return Path(expanded(str(value))) if isinstance(value, Path) and str(value).startswith("~") else value

    @functools.wraps(function)
    def command(*values: Any, **named: Any) -> Any:
        return function(*map(expand, values), **{name: expand(value) for name, value in named.items()})

    return command


class UsageProblem(UbqError):
    """A command line that cannot be understood."""

    exit_code = EXIT_USAGE


def _module_exists(name: str) -> bool:
    return name in sys.modules or importlib.util.find_spec(name) is not None


def _version(value: bool) -> None:
    if value:
        from ubq import __version__

        say(f"ubq {__version__}")
        raise typer.Exit


def _spelled(name: str) -> str:
    """An option as it is declared: the three-script workflow spells ``--train_data``."""
    return name.replace("_", "-")


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": _spelled},
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    language: Annotated[
        str, typer.Option("--lang", metavar="LANG", help="Language of messages: en, zh_CN.", is_eager=True)
    ] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (also: UBQ_DEBUG=1).")] = False,
) -> None:
    """Quantisation-aware training and int8 export of UB-Diff for the Raspberry Pi."""
    if debug:
        os.environ["UBQ_DEBUG"] = "1"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the console script.

    Returns:
        The exit code (``ubq.errors``). Errors are one line on stderr, and one with what fixes them.
    """
    # PyTorch tells at every start that its quantised operators will go; a user of ubq can do nothing about it
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started us: the next file opened would take its number
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    args = list(sys.argv[1:] if arguments is None else arguments)
    args = _language_first(args)
    set_language(args[1] if args[:1] == ["--lang"] else None)
    if not os.environ.get("COLUMNS", "").isdecimal() or int(os.environ["COLUMNS"]) == 0:
        os.environ.pop("COLUMNS", None)  # said by what is no terminal: a width of 0 would show nothing
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal's encoding lacks ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = _translated(typer.main.get_command(app))
    try:
        result = command.main(args=args, prog_name="ubq", standalone_mode=False)
    except UbqError as error:
        return _fail(error, error.message, error.fix, error.exit_code)
    except _CliUsageError as error:
        path = error.ctx.command_path if error.ctx else "ubq"
        if not error.format_message():  # nothing was asked for, and the help was shown
            if path == "ubq":
                say(_("to begin: {command}").format(command="ubq wizard"), err=True)
            return EXIT_USAGE
        return _fail(error, error.format_message(), _("see: {command} --help").format(command=path), EXIT_USAGE)
    except _CliError as error:
        return _fail(error, error.format_message(), "", error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPT
    except BrokenPipeError:
        return _reader_gone()
    except SystemExit as stop:  # Typer's answer to the same
        if isinstance(stop.__context__, BrokenPipeError):
            return _reader_gone()
        raise
    except OSError as error:
        problem = of_the_system(error)
        return _fail(error, problem.message, problem.fix, problem.exit_code)
    except Exception as error:
        if is_out_of_memory(error):
            fix = _("free some memory; a damaged file may also ask for more than there is")
            return _fail(error, _("too little memory"), fix, EXIT_STAGE_FAILED)
        text = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
        return _fail(error, message, _("this may be a defect of ubq; --debug shows the traceback"), EXIT_STAGE_FAILED)
    return result if isinstance(result, int) else EXIT_OK


def _language_first(args: Sequence[str]) -> list[str]:
    """The arguments with ``--lang LANG`` in front, wherever it stood; help is made before options are read."""
    rest = list(args)
    for i, text in enumerate(rest):
        if text == "--":
            break
        if text.startswith("--lang="):
            return ["--lang", text.partition("=")[2], *rest[:i], *rest[i + 1 :]]
        if text == "--lang" and rest[i + 1 :]:
            return ["--lang", rest[i + 1], *rest[:i], *rest[i + 2 :]]
    return rest


def _reader_gone() -> int:
    """The reader of our output has gone (``ubq runs | head -1``): no error; nothing more is said, also not at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_OK


def _fail(error: BaseException, message: str, fix: str, code: int) -> int:
    if os.environ.get("UBQ_DEBUG", "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    say(_("error: {error}").format(error=message), err=True)
    if fix:
        say(f"  {fix}", err=True)
    return code
