"""The batch script: what Slurm runs, and when the job goes back into its queue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ubq.config.runs import command
from ubq.errors import UsageError
from ubq.i18n import gettext as _
from ubq.slurm.request import Request

_BODY = """
# The processes get SIGTERM before the time limit and when the job is preempted; they save and end with 143, and the job
# goes back into the queue. Not so after scancel, which has ended the job before it ends the processes, nor after
# ubq stop, which sets Requeue=0. Where the limit comes while they still save, this script gets SIGTERM, too.
job() {{ scontrol show job "$SLURM_JOB_ID" --oneliner; }}
trap 'case "$(job)" in *" Reason=TimeLimit "*) scontrol requeue "$SLURM_JOB_ID" ;; esac' TERM

{srun} &
step=$!
while wait $step; code=$?; kill -0 $step 2>/dev/null; do :; done

if [ $code = 143 ]; then
    case "$(job)" in
        *" Requeue=0 "*) ;;
        *" JobState=RUNNING "* | *" Reason=TimeLimit "*) scontrol requeue "$SLURM_JOB_ID" ;;
    esac
fi
exit $code
"""


def batch_script(
    request: Request, name: str, words: Sequence[str], log: Path, tasks: int = 1, parts: int = 0, part: str = ""
) -> str:
    """The text of a batch script.

    Args:
        request: nodes, time and the rest.
        name: of the job.
        words: the command that every process runs.
        log: what it prints goes there; Slurm's patterns (``%j``) in the file's name are filled in.
        tasks: processes on each node.
        parts: tasks of an array, each of which gets ``part`` with its number.
        part: shell words after the command, as ``--shard $SLURM_ARRAY_TASK_ID/8``.

    Raises:
        UsageError: a value cannot stand in a batch script.
    """
    asked = {
        "job-name": name,
        "nodes": str(request.nodes),
        "ntasks-per-node": str(tasks),
        "gpus-per-node": str(request.gpus_per_node or ""),
        "cpus-per-task": str(request.cpus_per_task or ""),
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
        "array": f"1-{parts}" if parts else "",
        "chdir": str(Path.cwd()),
        "output": str(log.parent).replace("%", "%%") + f"/{log.name}",
        "open-mode": "append",
        "signal": f"TERM@{request.warning}",
    }
    options = {**{key: value for key, value in asked.items() if value}, "requeue": "", **request.more}
    lines = [_directive(key, value) for key, value in options.items()]
    # Slurm hands the processors of a task to its steps only where these ask for them.
    each = f" --cpus-per-task={request.cpus_per_task}" if request.cpus_per_task else ""
    srun = f"srun --kill-on-bad-exit=0{each} {command(*words)} {part}".rstrip()
    head = "#!/bin/bash\n# Written by ubq submit.\n" + "\n".join(lines) + "\n"
    return head + _BODY.format(srun=srun)


def _directive(key: str, value: str) -> str:
    if not value.isprintable():
        raise UsageError(
            _("--{key}: {value} cannot stand in a batch script").format(key=key, value=value),
            _("choose a name or folder without control characters"),
        )
    if not value:
        return f"#SBATCH --{key}"
    if not value.replace("_", "").translate(str.maketrans("", "", "-+./:,=@%[]*")).isalnum():
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"#SBATCH --{key}={value}"
