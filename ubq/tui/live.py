"""The pane beside the questions that says what the answers mean: data, checkpoint, cost, checks before the start."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import Static

from ubq.i18n import gettext as _
from ubq.tui import cost, questions
from ubq.tui.answers import checkpoint_text, checks_text, estimate_text, key_of, plan_text
from ubq.tui.draft import Draft
from ubq.tui.processes import Lookup, ubq_json

INSPECT_S = 120.0
"""Longest wait for the look into a checkpoint."""
READ_AT_ONCE = 2e9
"""Bytes of samples that are read whole; of more, it looks at the files' headers alone."""


class Live(VerticalScroll, can_focus=False):
    """Looks at what an answer names, in other processes, and says what it found.

    What is wrong with an answer it puts into :attr:`Draft.mistakes` too.
    """

    class Looked(Message):
        """A look is over.

        Args:
            mistakes: what is wrong with answers, by key.
        """

        def __init__(self, mistakes: Mapping[str, str]) -> None:
            super().__init__()
            self.mistakes = mistakes

    class Checked(Message):
        """What stands in the place of the checks before the start: the checks, or words without any."""

        def __init__(self, checks: Sequence[Mapping[str, Any]], words: str = "") -> None:
            super().__init__()
            self.checks = checks
            self.words = words

    def __init__(self, draft: Draft) -> None:
        super().__init__(id="live-scroll")
        self._draft = draft
        self._probe = Lookup()
        self._asked: object = None
        self.looking = False

    def compose(self) -> ComposeResult:
        yield Static("", id="live", markup=False)

    async def on_unmount(self) -> None:
        await self._probe.close()

    def look(self, step: str) -> None:
        """Look at what a step asks for, unless that has been done already."""
        config = self._draft.loaded.config
        subject: object = self._draft.text
        if step == "data":
            subject = (config.data.model_dump_json(), config.seed)
        elif step == "checkpoint":
            subject = config.pretrained.model_dump_json()
        elif step != "review":
            subject = config.model_dump_json()
        if self._draft.findings or any(self._draft.missing(name) for name in questions.INPUTS):
            self.workers.cancel_node(self)
            self.looking, self._asked = False, None
            self._say(_("fix what is marked first"))
        elif self._asked != (step, subject):
            self._asked = (step, subject)
            self._draft.mistakes = {}
            self.looking = True
            self._look(step)

    @work(exclusive=True)
    async def _look(self, step: str) -> None:
        looks = {"data": self._data, "checkpoint": self._checkpoint, "review": self._before_start}
        await looks.get(step, self._cost)()

    async def _checkpoint(self) -> None:
        path = self._draft.loaded.config.pretrained.path
        if not path:
            self._say(_("No checkpoint: autoencoder, seismic decoder and diffusion are trained first."))
            self._looked({})
            return
        self._say(_("looking into {path} …").format(path=path))
        facts = await self._inspect()
        self._say(checkpoint_text(facts))
        problem = facts.get("problem") or (facts["error"] if facts.get("told") else "")
        self._looked({"pretrained.path": problem} if problem else {})

    async def _inspect(self) -> dict[str, Any]:
        pretrained = self._draft.loaded.config.pretrained
        arguments = ["checkpoint", "inspect", os.path.expanduser(pretrained.path), "--json"]
        arguments += ["--weights", pretrained.weights]
        if pretrained.decoder_path:
            arguments += ["--decoder-checkpoint", os.path.expanduser(pretrained.decoder_path)]
        return await ubq_json(*arguments, timeout=INSPECT_S)

    async def _data(self) -> None:
        answer = await self._ask("data")
        if answer is None:
            return
        config = self._draft.loaded.config
        failed = [c for c in answer["checks"] if c["status"] == "failed"]
        seen = checks_text(answer["checks"])
        self._say(seen)
        self._looked({key: f"{c['figure']} {c['fix']}".strip() for c in failed if (key := key_of(c, config))})
        if answer.get("bytes"):
            await self._samples(seen, answer["bytes"])

    async def _samples(self, seen: Text, count: float) -> None:
        """Below what the headers say: what is in the samples, or that they have not been read."""
        if count > READ_AT_ONCE:
            text = _("only headers were read; the stage prepare reads every sample before it trains")
            self._say(Text(f"{seen}\n{text}"))
            return
        self._say(Text(f"{seen}\n" + _("reading all samples, {size} …").format(size=cost.bytes_text(count))))
        answer = await self._probe.ask("content", str(self._draft.file), self._draft.text)
        if "error" in answer:
            self._say(Text(f"! {answer['error']} {answer['fix']}".rstrip() + f"\n{seen}"))
            self._looked({"data.train_velocity": answer["error"]} if answer.get("told") else {})
        else:
            self._say(Text("\n").join((checks_text(answer["checks"]), seen)))

    async def _cost(self) -> None:
        answer = await self._ask("estimate")
        if answer is not None:
            self._say(estimate_text(answer, self._draft.loaded.config.threads))
            self._looked({})

    async def _before_start(self) -> None:
        self.post_message(self.Checked([], _("checking …")))
        answer = await self._ask("preflight")
        if answer is not None:
            self._say(plan_text(answer, self._draft))
            self.post_message(self.Checked(answer["checks"]))
            self._looked({})

    async def _ask(self, question: str) -> dict[str, Any] | None:
        """What the probe answers; None where it could not, which the pane then says."""
        self._say(_("checking …"))
        answer = await self._probe.ask(question, str(self._draft.file), self._draft.text)
        if "error" in answer:
            problem = f"! {answer['error']} {answer['fix']}".rstrip()
            self._say(problem)
            if question == "preflight":
                self.post_message(self.Checked([], problem))
            self._looked({})
            return None
        return answer

    def _looked(self, mistakes: Mapping[str, str]) -> None:
        self.looking, self._draft.mistakes = False, dict(mistakes)
        self.post_message(self.Looked(mistakes))

    def _say(self, text: Text | str) -> None:
        pane = self.query("#live")
        if pane:  # else the screen is being closed
            pane.first(Static).update(text)
            self.call_after_refresh(self._let_scroll)

    def _let_scroll(self) -> None:
        """The focus comes here only where there is more than is shown."""
        self.can_focus = self.max_scroll_y > 0
