"""Asks a model for the change that carries an idea out, until one applies.

Several are asked at once, and the first that applies wins: the others are dropped where they are.
What does not apply comes back with what the patch program said, a number of times. The same goes
for a change that ran and failed, which starts from the files as the change left them.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from research_env.researcher import quoting
from research_env.researcher.asking import Bill, Model
from research_env.researcher.changes import Codebase, Files, NotApplied
from research_env.researcher.interface import BudgetSpent
from research_env.researcher.wording import Wording

REASON = 3_000  # characters of what went wrong that a model is shown
ANSWER = 20_000  # and of its own last answer
LONGEST = 400_000  # of a change, far above any answer
Refusal = Callable[[Files], str]
EMPTY = "(the model's answer was empty)"


class Written(NamedTuple):
    diff: str  # from the environment's own code; or an answer that does not apply
    applied: bool
    reason: str = ""  # why not
    refused: bool = False  # it applies, and was not wanted


def write(
    model: Model,
    wording: Wording,
    prompt: str,
    code: Codebase,
    start: Files,
    seed: str,
    bill: Bill,
    refusal: Refusal,
    samples: int,
    revisions: int,
) -> Written:
    """`refusal` says what is wrong with files that a patch leads to, or nothing."""
    first = [{"role": "user", "content": prompt}]
    conversations: list[Sequence[Mapping[str, str]]] = [first] * samples
    last = Written(EMPTY, False, "no answer")
    for revision in range(1 + revisions):
        failed: list[Sequence[Mapping[str, str]]] = []
        try:
            answers: Any = model.ask(conversations, f"{seed} change {revision}", bill)
            with contextlib.closing(answers):
                for _, answer in answers:
                    if answer.error:
                        last = last._replace(reason=last.reason or answer.error)
                        failed.append(first)
                        continue
                    patch = quoting.shortened(quoting.restored(answer.text), LONGEST)
                    after, reason = _applied(code, start, patch)
                    wanted = "" if after is None else refusal(after)
                    if after is not None and not wanted:
                        return Written(code.diff(after), True)
                    if not answer.whole:
                        reason = f"the answer was cut off before its end; be shorter. {reason}"
                    shown = quoting.shortened(answer.text, ANSWER)
                    told = f"This did not apply to the change it starts from: {reason}"
                    kept = patch if start is code.original else unreadable(told, patch)
                    last = Written(kept.strip() or EMPTY, False, wanted or reason, bool(wanted))
                    failed.append([*first, *_complaint(wording, shown, last.reason)])
        except BudgetSpent:
            if not revision:
                raise
            break
        conversations = failed
    return last


def unreadable(heading: str, said: str) -> str:
    """An answer for the record, in which no patch program finds a change."""
    rows = quoting.shortened(said, ANSWER).strip().split("\n")
    return "\n".join([quoting.line(heading, 500), *(f"> {row}" for row in rows)])


def _applied(code: Codebase, start: Files, patch: str) -> tuple[Files | None, str]:
    if not patch.strip():
        return None, "the answer is empty"
    try:
        return code.changed(start, patch), ""
    except NotApplied as error:
        return None, str(error)


def _complaint(wording: Wording, answer: str, reason: str) -> list[dict[str, str]]:
    said = quoting.block("what went wrong", quoting.plain(reason, REASON))
    asked = {"role": "user", "content": wording.fill("revise", reason=said)}
    # A conversation has no empty turns.
    return [{"role": "assistant", "content": answer or EMPTY}, asked]
