"""Files that are damaged or made to do harm, through the commands that read them.

A sample runs with the fast tests, 10,000 inputs with ``make chaos``; the table of outcomes is in ``bench/README.md``.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import campaign
import pytest

SAMPLE = 200
WHOLE = 10_000
OF_THEIR_OWN = 6
"""Inputs of the sample that also go to a command in a process of its own."""


def faults(outcomes: list[campaign.Outcome]) -> list[str]:
    return [f"{o.number} {o.kind}: ubq {o.command}: {o.fault}; {o.said}" for o in outcomes if o.fault]


def test_a_sample_of_hostile_input() -> None:
    outcomes = campaign.in_a_process_of_its_own(SAMPLE, seed=1, processes=1)
    assert len(outcomes) == SAMPLE
    assert faults(outcomes) == []
    assert sum(o.code != 0 for o in outcomes) > SAMPLE // 4, "the inputs are not hostile"


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_ten_thousand_hostile_inputs() -> None:
    outcomes = campaign.in_a_process_of_its_own(WHOLE, seed=0, processes=os.cpu_count() or 1)
    print(campaign.table(outcomes))
    assert len(outcomes) == WHOLE
    assert faults(outcomes) == []


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Specimens, made in a process of their own."""
    folder = tmp_path_factory.mktemp("sound")
    code = "import sys; from pathlib import Path; import specimens; specimens.build(Path(sys.argv[1]))"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    }
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)
    return folder


@pytest.mark.parametrize("number", range(OF_THEIR_OWN))
def test_hostile_input_to_real_processes(number: int, sound: Path, tmp_path: Path) -> None:
    """As a user would: ``python -m ubq``, with 2 GB of address space for all of it."""
    import specimens

    names = [name for name in specimens.KINDS if name not in ("translation", "checkpoint", "QAT checkpoint")]
    random = Random(f"real {number}")
    kind = specimens.KINDS[names[number * len(names) // OF_THEIR_OWN]]
    folder = tmp_path / "case"
    shutil.copytree(sound / kind.folder, folder)
    target = folder / random.choice(kind.targets)
    target.write_bytes(kind.mutate(target.read_bytes(), random))
    before = campaign.tree(folder)
    done = subprocess.run(
        [sys.executable, "-m", "ubq", *kind.commands[0]],
        cwd=folder,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
            "XDG_CONFIG_HOME": str(folder / "xdg"),
            "UBQ_SSH": "false",
        },
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (campaign.MEMORY, campaign.MEMORY)),
    )
    assert campaign.judge(done.returncode, done.stdout, done.stderr, [], before, campaign.tree(folder)) == ""
