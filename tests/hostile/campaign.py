"""Thousands of hostile inputs, each through a command that reads it: ``python tests/hostile/campaign.py``.

A command gets a folder of its own, 2 GB of address space and seconds of processor time. Wanted of it: a documented
exit code; one line that says what is wrong, and no traceback; nothing run, nothing written but what it was to write.
Commands run in forked processes, many in each; a process that dies is a fault of the input it died of.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

MEMORY = 2_000_000_000
SECONDS = 20.0
"""Processor time for one command: most take hundredths of a second; ``doctor`` builds models without numbers."""
PATIENCE = 600.0
"""Seconds of the clock after which a process that says nothing is killed."""
BATCH = 40
DOCUMENTED = frozenset((0, 1, 2, 3, 4, 5, 129, 130, 143))
NEW = ("new", "new.pt")
"""What commands are told to write."""
MADE = ("exported_models/toy-bundle", "run.lock")
"""What they make unasked: ``ubq deploy`` the bundle that it copies."""
HARMFUL = frozenset(
    ("os.system", "os.exec", "os.posix_spawn", "pty.spawn", "socket.connect", "os.kill", "webbrowser.open")
)


@dataclass
class Outcome:
    """What became of one input."""

    number: int
    kind: str
    command: str
    code: int
    fault: str = ""
    said: str = ""
    seconds: float = 0.0


class Alarm(BaseException):
    """The processor time of a command is used up."""


def attempt(number: int, seed: int, root: Path, folder: Path) -> Outcome:
    """Make input ``number`` and give it to its command, in this process."""
    import specimens

    from ubq.cli import main

    random = Random(f"{seed}:{number}")
    name = random.choices(list(specimens.KINDS), [k.weight for k in specimens.KINDS.values()])[0]
    kind = specimens.KINDS[name]
    shutil.copytree(root / kind.folder, folder, symlinks=True)
    target = random.choice(kind.targets)
    data = kind.mutate((folder / target).read_bytes(), random)
    (folder / target).write_bytes(data)
    command = list(random.choice(kind.commands))
    os.chdir(folder)
    before = tree(folder)
    events: list[str] = []
    watch(events)
    out, err = io.StringIO(), io.StringIO()
    code, began = -1, time.process_time()
    fault = ""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(command)
    except Alarm:
        fault = f"took more than {SECONDS:.0f} s"
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        fault = f"raised {type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        watch(None)
        os.chdir(root)
    seconds = time.process_time() - began
    fault = fault or judge(code, out.getvalue(), err.getvalue(), events, before, tree(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(number, name, " ".join(command), code, fault, err.getvalue()[-400:], round(seconds, 3))


def judge(
    code: int, out: str, err: str, events: Sequence[str], before: dict[str, object], after: dict[str, object]
) -> str:
    """What is wrong with how a command ended; empty when nothing is."""
    if code not in DOCUMENTED:
        return f"exit code {code}"
    if "Traceback" in err or "defect of ubq" in err or "缺陷" in err:
        return "reads as a defect of ubq"
    errors = re.findall("^(?:error|错误)[:：].*", err, re.MULTILINE)
    if code and len(errors) > 1:
        return f"{len(errors)} lines of error"
    if code and not (out + err).strip():
        return "says nothing"
    if max(map(len, err.splitlines()), default=0) > 5000:
        return "a line of thousands of characters"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]", (out + err).replace("\x1b[0m", "").replace("\r", "")):
        return "control characters reach the terminal"
    if events:
        return f"ran {events[0]}"
    changed = [n for n, facts in before.items() if after.get(n) != facts]
    if changed:
        return f"changed {changed[0]}"
    grown = [n for n in after if n not in before and Path(n).parts[0] not in NEW and not any(m in n for m in MADE)]
    return f"wrote {grown[0]}" if grown else ""


def tree(folder: Path) -> dict[str, object]:
    """Names, sizes and times of the files below a folder and of those beside it."""
    found: dict[str, object] = {}
    for base, _folders, files in os.walk(folder):
        for file in files:
            status = os.lstat(os.path.join(base, file))
            found[os.path.relpath(os.path.join(base, file), folder)] = (
                status.st_size,
                status.st_mtime_ns,
                status.st_ino,
            )
    for path in folder.parent.iterdir():
        if path != folder:
            found[f"../{path.name}"] = path.name
    return found


_watched: list[list[str] | None] = [None]


def watch(events: list[str] | None) -> None:
    """Note what a command runs, from now on; None: no longer."""
    if not hasattr(watch, "installed"):
        sys.addaudithook(_hear)
        watch.installed = True  # type: ignore[attr-defined]
    _watched[0] = events


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    events = _watched[0]
    if events is None:
        return
    if event == "subprocess.Popen":
        program = str(arguments[0])
        if program.rpartition("/")[2] not in ("false", "ssh", "ldconfig", "uname", "nvidia-smi", "gcc", "ld"):
            events.append(f"subprocess {arguments[1]}")
    elif event in HARMFUL and not (event == "os.kill" and arguments[1] == 0):
        events.append(f"{event} {arguments}"[:200])


def _child(numbers: Sequence[int], seed: int, root: Path, folder: Path, report: int) -> None:
    """Work on a batch; say before each input which it is, and after it what became of it."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _alarm)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    home = folder.with_name(f"{folder.name}-home")
    os.environ.update(HOME=str(home), COLUMNS="100", UBQ_SSH="false", LANG="C.UTF-8", TERM="dumb")
    for number in numbers:
        case = folder / f"case-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _tell(report, {"begin": number})
        xdg = case / "xdg"
        os.environ["XDG_CONFIG_HOME"] = str(xdg)
        _localise(case / "locale")
        try:
            outcome = attempt(number, seed, root, case)
        except Exception:
            outcome = Outcome(number, "?", "?", -1, "the campaign's own fault", traceback.format_exc()[-1000:])
        _tell(report, asdict(outcome))


def _localise(folder: Path) -> None:
    """Translations of the case, where it has any: its kind decides."""
    import ubq.i18n

    global _SHIPPED
    _SHIPPED = _SHIPPED or ubq.i18n.LOCALE_DIR
    ubq.i18n.LOCALE_DIR = _Either(folder, _SHIPPED)  # type: ignore[assignment]
    import gettext

    gettext._translations.clear()  # type: ignore[attr-defined]


_SHIPPED: Path | None = None


class _Either(os.PathLike[str]):
    """The case's folder once it is there, else the shipped one: the case is made later."""

    def __init__(self, case: Path, shipped: Path) -> None:
        self.case, self.shipped = case, shipped

    def __fspath__(self) -> str:
        return str(self.case if self.case.is_dir() else self.shipped)


def _alarm(_number: int, _frame: object) -> None:
    raise Alarm


def _tell(report: int, message: dict[str, object]) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


def run(
    numbers: Sequence[int], seed: int, processes: int, tell: Callable[[Outcome], None] = lambda _outcome: None
) -> list[Outcome]:
    """Inputs of these numbers, in forked processes, so many at a time; ``tell`` hears of each batch as it ends."""
    _import_everything()
    import specimens

    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as temporary:
        base = Path(temporary).resolve()
        root = base / "sound"
        root.mkdir()
        specimens.build(root)
        batches = [list(numbers[i : i + BATCH]) for i in range(0, len(numbers), BATCH)]
        running: list[_Process] = []
        while batches or running:
            while batches and len(running) < processes:
                running.append(_Process(batches.pop(0), seed, root, base / f"work-{len(outcomes)}-{len(batches)}"))
            for process in [p for p in running if p.ended()]:
                running.remove(process)
                outcomes += process.outcomes
                for outcome in process.outcomes:
                    tell(outcome)
                if process.left:
                    batches.insert(0, process.left)
            time.sleep(0.02)
    return sorted(outcomes, key=lambda o: o.number)


def _import_everything() -> None:
    """What commands import, so that forked processes have it already.

    What takes a second and reads no input is left out, and so is the minute that a heartbeat is watched for.
    """
    import importlib

    import ubq.jobs.owner
    import ubq.stages.estimate

    ubq.stages.estimate.memory_of = lambda config: {}
    ubq.jobs.owner.SILENT_S = 0.05

    for name in (
        "ubq.cli",
        *(
            f"ubq.cli.{n}"
            for n in ("jobs", "config", "data", "checkpoint", "export", "sample", "quant", "deploy", "doctor")
        ),
        "ubq.upstream.importer",
        "ubq.jobs.run",
        "ubq.jobs.checks.doctor",
        "ubq.export.files",
        "ubq.quant.checkpoint",
        "ubq.export.sampling",
        "ubq.verify.picture",
        "ubq.deploy.deploy",
        "ubq.data.validate",
        "ubq.export.readback.digest",
        "ubq.stages",
        "ubq.stages.estimate",
        "ubq.export.readback.torchscript",
        "safetensors.torch",
        "psutil",
        "filelock",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


class _Process:
    """A forked process and the batch it works on."""

    def __init__(self, numbers: Sequence[int], seed: int, root: Path, folder: Path) -> None:
        self.left = list(numbers)
        self.outcomes: list[Outcome] = []
        self._folder = folder
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._buffer = b""
        self._began = -1
        self._heard = time.monotonic()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._read)
                _child(numbers, seed, root, folder, write)
                status = 0
            finally:
                os._exit(status)
        os.close(write)

    def ended(self) -> bool:
        """Whether it has ended; takes in what it said."""
        self._listen()
        done, status = os.waitpid(self._pid, os.WNOHANG)
        if not done:
            if time.monotonic() - self._heard > PATIENCE:
                os.kill(self._pid, signal.SIGKILL)
            return False
        self._listen()
        os.close(self._read)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._began in self.left:
            code = os.waitstatus_to_exitcode(status)
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            self.outcomes.append(Outcome(self._began, "?", "?", code, reason))
            self.left = self.left[self.left.index(self._began) + 1 :]
        return True

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._read, 65536):
                self._buffer += data
                self._heard = time.monotonic()
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "begin" in message:
                self._began = message["begin"]
            else:
                self.outcomes.append(Outcome(**message))
                self.left.remove(message["number"])


def table(outcomes: Sequence[Outcome]) -> str:
    """How the inputs of each kind ended, in Markdown."""
    codes = (0, 1, 2, 3, 4, 5)
    lines = [
        "| input | inputs | " + " | ".join(f"exit {c}" for c in codes) + " | faults | most seconds |",
        "|---|" + "---:|" * (len(codes) + 3),
    ]
    kinds = [*dict.fromkeys(sorted(o.kind for o in outcomes)), ""]
    for kind in kinds:
        of_kind = [o for o in outcomes if kind in ("", o.kind)]
        counts = Counter(o.code for o in of_kind)
        faults = sum(bool(o.fault) for o in of_kind)
        most = max(o.seconds for o in of_kind)
        cells = [kind or "all", len(of_kind), *(counts[c] for c in codes), faults, f"{most:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def in_a_process_of_its_own(count: int, seed: int, processes: int, first: int = 0) -> list[Outcome]:
    """As :func:`run`, from a process that has no threads yet: forking one that has is not safe."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcomes.jsonl"
        options = {"count": count, "seed": seed, "first": first, "processes": processes, "json": file}
        command = [sys.executable, __file__, *(text for k, v in options.items() for text in (f"--{k}", str(v)))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return [Outcome(**json.loads(line)) for line in file.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None, help="file for every outcome, a line each, as they come")
    parser.add_argument("--table", type=Path, default=None, help="make the table of such a file, and run nothing")
    options = parser.parse_args()
    if options.table:
        outcomes = [Outcome(**json.loads(line)) for line in options.table.read_text().splitlines()]
    else:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(options.json.open("a")) if options.json else None

            def tell(outcome: Outcome) -> None:
                if file:
                    print(json.dumps(asdict(outcome)), file=file, flush=True)

            numbers = range(options.first, options.first + options.count)
            outcomes = run(numbers, options.seed, options.processes, tell)
    print(table(outcomes))
    for outcome in outcomes:
        if outcome.fault:
            print(f"{outcome.number} {outcome.kind}: ubq {outcome.command}: {outcome.fault}\n    {outcome.said!r}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
