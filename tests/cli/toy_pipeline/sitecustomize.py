"""Puts the toy pipeline of tests/jobs in the place of ubq's own, in processes that have this folder on their path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "jobs"))

import toy

import ubq.stages

ubq.stages.PIPELINE = tuple(toy.stages())
