"""The configuration file that the wizard is about to write: what it would say, mean and start.

Headless: the screens and the plain prompts share it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ubq.config import keys, presets
from ubq.config.editing import edited, read_file, set_values
from ubq.config.findings import ConfigError, Finding
from ubq.config.flags import FLAGS
from ubq.config.layers import flatten, parse_text
from ubq.config.load import PROJECT_FILE, Loaded, load_config
from ubq.config.rendering import as_toml, schema_comment, values_of
from ubq.config.runs import command as shell_command
from ubq.data.files import missing_path
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.plaintext import printable
from ubq.tui import questions


class Draft:
    """A configuration file with the answers given so far laid into it; nothing is written before :meth:`save`.

    Args:
        file: the file; it need not exist.
        preset: preset to build on; empty: what the file extends.
        anew: leave the values of a file that is there alone; :meth:`save` keeps it under another name.

    Raises:
        ConfigError: the file that is there cannot be used.
        UsageError: it cannot be read.
    """

    again: Path | None = None
    """The run that is gone on with, where there is one."""
    writes = True
    """Whether :meth:`save` writes a file."""

    def __init__(self, file: Path, preset: str = "", anew: bool = False) -> None:
        self.file = file
        self.backup = _free(file.with_name(f"{file.name}.before"))
        """Where a file goes that :meth:`save` begins anew."""
        self.chosen = preset
        self._anew = anew and file.exists()
        self._before = read_file(file)[0] if file.exists() and not anew else schema_comment(file)
        self.changes: dict[str, object] = {}
        if preset and preset != self._extends():
            self._before_changes = edited(self._before, {"extends": preset})
            self.preset = preset
        else:
            self._before_changes, self.preset = self._before, ""
        self._below = values_of(self._load(self._before_changes).config)
        self.loaded = self._load(self._before_changes)
        self.findings: tuple[Finding, ...] = ()
        self.mistakes: dict[str, str] = {}
        """What a look at files and machine found wrong with an answer, by key; it holds until an answer changes."""

    def left_over(self) -> dict[str, object]:
        """Values of the file as it was, but for its preset and where its run lay."""
        import tomllib

        layer = {".".join(path): value for path, value in flatten(tomllib.loads(self._before)) if value != {}}
        return {k: v for k, v in layer.items() if k not in ("extends", "description", "run.name", "run.dir")}

    def propose_run(self, runs_dir: Path) -> None:
        """A folder for the run: that of the runs, and a name that is free."""
        run = self.loaded.config.run
        if runs_dir != Path(run.dir):
            self.answer("run.dir", str(runs_dir))
        preferred = self.chosen if self.chosen and not presets.is_path(self.chosen) else run.name
        name = free_run_name(runs_dir, preferred or "run")
        if name != run.name:
            self.answer("run.name", name)

    def _extends(self) -> object:
        import tomllib

        try:
            return tomllib.loads(self._before).get("extends")
        except ValueError:
            return None  # loading it says what is wrong, with the line

    def _load(self, text: str) -> Loaded:
        return load_config(project_file=self.file, project_text=text)

    @property
    def text(self) -> str:
        """The file as :meth:`save` would write it."""
        return edited(self._before_changes, self.changes)

    def value(self, name: str) -> object:
        """What a key would be: the answer, even a wrong one, else the value of the layers."""
        if name in self.changes:
            return self.changes[name]
        return values_of(self.loaded.config)[tuple(name.split("."))]

    def answer(self, name: str, value: object) -> str:
        """Take an answer; text is read as ``--set`` reads it.

        Returns:
            What is wrong with it and what to do, in one line; empty when nothing is. It is kept either way.
        """
        path = tuple(name.split("."))
        parsed = parse_text(path, value) if isinstance(value, str) else value
        if parsed == self._below[path]:
            self.changes.pop(name, None)
        else:
            self.changes[name] = parsed
        self.mistakes = {}
        self.judge()
        return self.problem(name)

    def judge(self) -> None:
        """Resolve all answers together; :attr:`findings` then says what does not hold."""
        try:
            self.loaded, self.findings = self._load(self.text), ()
        except ConfigError as error:
            self.findings = error.findings
        except UsageError as error:
            finding = Finding(file=str(self.file), line=None, key="", given="", allowed=error.message)
            self.findings = (finding,)

    def mistake(self, name: str) -> str:
        """What is known to be wrong with the answer to one key; empty when nothing is. No step is left with one."""
        for finding in self.findings:
            if finding.key == name:
                hint = f" ({finding.suggestion})" if finding.suggestion else ""
                return _("needs {allowed}{hint}").format(allowed=finding.allowed, hint=hint)
        return self.missing(name) or self.mistakes.get(name, "")

    def missing(self, name: str) -> str:
        """That the file or folder a key names is not there; empty where it is, and for other keys."""
        value = self.value(name)
        if name not in questions.INPUTS or not value:
            return ""
        wrong = missing_path(Path(os.path.expanduser(str(value))))
        return printable(f"{wrong.message}; {wrong.fix}") if wrong else ""

    def problem(self, name: str) -> str:
        """:meth:`mistake`, or what keeps the answer from counting."""
        source = self.loaded.provenance.get(name, "")
        wins = name in self.changes and source.startswith("UBQ_")
        return self.mistake(name) or (
            _("the environment variable {name} wins over this").format(name=source) if wins else ""
        )

    def source(self, name: str) -> str:
        """Where the value of a key comes from, for people."""
        if name in self.changes:
            return _("your answer")
        source = self.loaded.provenance.get(name, "")
        return _("default") if source == "default" else source

    @property
    def command(self) -> str:
        """The ``ubq run`` line that does the same without the file having been changed."""
        parts = ["ubq", "run"]
        if self.preset:
            parts += ["--preset", self.preset]
        if self.file != Path(PROJECT_FILE) and self.file.exists() and not self._anew:
            parts += ["--config", str(self.file)]
        for name, value in self.changes.items():
            parts += option(name, value)
        line = shell_command(*parts)
        # the values of the file there would come under it
        return f"{shell_command('mv', str(self.file), str(self.backup))} && {line}" if self._anew else line

    @property
    def summary(self) -> str:
        """The resolved configuration as TOML with the source of each value behind it; defaults are left out."""
        set_keys = {key for key, source in self.loaded.provenance.items() if source != "default"}
        return as_toml(self.loaded.config, self.loaded.provenance, set_keys)

    @property
    def run_folder(self) -> Path:
        """Folder of the run that the configuration starts."""
        run = self.loaded.config.run
        return Path(run.dir) / (run.name or "run")

    def save(self) -> None:
        """Write the file in one step, its comments kept; what an editor changed in it meanwhile is kept too.

        Raises:
            ConfigError, UsageError: the answers do not hold, or the file cannot be written.
        """
        if self.findings:
            raise ConfigError(self.findings)
        if self._anew:
            try:
                self.file.replace(self.backup)
            except OSError as error:
                raise UsageError(
                    _("cannot write {file}: {reason}").format(file=self.backup, reason=error.strerror)
                ) from error
            self._anew = False
        values: dict[str, object] = {"extends": self.preset} if self.preset else {}
        set_values(self.file, {**values, **self.changes})

    def start_arguments(self) -> list[str]:
        """The ``ubq`` command line that starts the saved file."""
        return ["run"] if self.file == Path(PROJECT_FILE) else ["run", "--config", str(self.file)]


class RunDraft(Draft):
    """The configuration of a run that is there, to go on with it or to begin another from it.

    Nothing is written but by the command that it starts.

    Args:
        folder: of the run.
        copy: begin another run.

    Raises:
        UsageError: there is no configuration, or this ubq cannot read it.
    """

    writes = False

    def __init__(self, folder: Path, copy: bool) -> None:
        self._run = folder
        super().__init__(folder / "config.toml")
        # It may have been renamed or moved since.
        home = {"run.name": folder.absolute().name, "run.dir": str(folder.absolute().parent)}
        self._before_changes = edited(self._before, home)
        self.judge()
        self.again = None if copy else folder

    def _load(self, text: str) -> Loaded:
        return load_config(project_file=self.file, project_text=text, isolated=True)

    def source(self, name: str) -> str:
        source = super().source(name)
        return _("the run") if source.startswith(str(self.file)) else source

    def propose_run(self, runs_dir: Path) -> None:
        if self.again is None:
            self.answer("run.name", free_run_name(self._run.parent, self._run.name))

    @property
    def run_folder(self) -> Path:
        return self.again or super().run_folder

    @property
    def command(self) -> str:
        return shell_command("ubq", *self.start_arguments())

    def save(self) -> None:
        if self.findings:
            raise ConfigError(self.findings)

    def start_arguments(self) -> list[str]:
        if self.again is not None:
            return resume_arguments(self.again, self.changes)
        parts = ["run", "--config", str(self.file)]
        for name, value in {"run.dir": str(self.run_folder.parent), **self.changes}.items():
            parts += option(name, value)
        return parts


def resume_arguments(folder: Path, values: Mapping[str, object]) -> list[str]:
    """The ``ubq`` command line that puts values over a run's frozen configuration and goes on with it."""
    parts = ["resume", str(folder.absolute()), "--yes"]  # that stages run again was said and answered
    for name, value in values.items():
        parts += ["--set", f"{name}={value if isinstance(value, str) else keys.toml_value(value)}"]
    return parts


def _free(path: Path) -> Path:
    """The path, or with -2, -3 ... behind it the first that is not there."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def option(name: str, value: object) -> list[str]:
    """A key and its value as ``ubq run`` takes them: the named option where there is one, else ``--set``."""
    flag = next((f for f in FLAGS if f.key == name), None)
    if flag and flag.switch and value in flag.switch:
        return [flag.option if value == flag.switch[0] else f"--no-{flag.option[2:]}"]
    text = value if isinstance(value, str) else keys.toml_value(value)
    if flag and not flag.switch:
        return [flag.option, text]
    return ["--set", f"{name}={text}"]


def free_run_name(runs_dir: Path, name: str) -> str:
    """``name``, or ``name-2`` and so on where a run of that name is there; ``name-2`` is counted on, to ``name-3``."""
    stem, _dash, end = name.rpartition("-")
    if (runs_dir / name).exists() and stem and end.isdecimal() and (runs_dir / stem).exists():
        name = stem
    number, candidate = 1, name
    while (runs_dir / candidate).exists():
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def apply_to_file(file: Path, changes: Mapping[str, object], run: Path) -> bool:
    """Put a fix into the configuration file that ``run`` came from, so that the next ``ubq run`` keeps it.

    Returns:
        False where the file is not there or stands for another run.

    Raises:
        ConfigError, UsageError: the file does not take the values.
    """
    if not file.is_file():
        return False
    config = load_config(project_file=file).config
    if (Path(config.run.dir) / config.run.name).resolve() != run.resolve():
        return False
    set_values(file, changes)
    return True
