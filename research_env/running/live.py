"""What a person sees of a search: a line for each idea, and on a terminal where it stands."""

import shutil
import sys
import time
from collections import Counter
from typing import TextIO

from research_env.bank import FINAL, SEARCH, SELECTION, Bank, Idea
from research_env.outcome import State
from research_env.running.campaign import DONE, Campaign

TICK_SECONDS = 1.0
FAILURES = frozenset(state.value for state in State) - {"ok"}


class Live:
    def __init__(self, bank: Bank, out: TextIO | None = None):
        self._bank, self._out = bank, out or sys.stdout
        self.terminal = self._out.isatty()
        self._since, self._first = time.monotonic(), bank.count("ok")
        self._ended = 0

    def ended(self, idea: Idea) -> None:
        self._ended += 1
        score = "" if idea.score is None else f" {idea.score:.5g}"
        why = f": {short(idea.reason, 80)}" if idea.reason else ""
        best = self._bank.best(1, above=self._bank.idea(0).score)
        mark = "  <- best so far" if best and best[0].id == idea.id else ""
        title = short(idea.title, 70)
        self._print(f"{idea.id:5d} {idea.kind:8s} {idea.state}{score} {title}{why}{mark}")

    def show(self, campaign: Campaign) -> None:
        """On a terminal only: elsewhere the lines of ideas do."""
        if self.terminal:
            width = shutil.get_terminal_size().columns
            self._out.write(f"\r\x1b[K{short(self.standing(campaign), width - 1)}")
            self._out.flush()

    def standing(self, campaign: Campaign) -> str:
        bank = self._bank
        parts = [f"{bank.count()}/{campaign.plan.ideas} ideas"]
        parts.append(f"{len(campaign.scheduler.running)} running")
        baseline, noise = bank.idea(0).score, bank.get("noise")
        if baseline is not None:
            parts.append(f"baseline {baseline:.5g}" + (f" ± {noise:.2g}" if noise else ""))
        if best := bank.best(1):
            parts.append(f"best {best[0].score:.5g} (idea {best[0].id})")
        failures = Counter({s: n for s, n in bank.states().items() if s in FAILURES})
        parts += [f"{count} {state}" for state, count in failures.most_common(3)]
        parts.append(_clock(campaign.spent_seconds))
        if cost := campaign.spent_cost:
            parts.append(f"cost {cost:.2f}")
        left = self.left_seconds(campaign)
        parts.append(f"{_clock(left)} left" if left is not None else "")
        if campaign.phase in (SELECTION, FINAL):
            parts.insert(0, f"confirming on the {campaign.phase} split")
        return " · ".join(filter(None, parts))

    def left_seconds(self, campaign: Campaign) -> float | None:
        """From the pace since this start; None before there is one."""
        if campaign.phase == DONE:
            return 0.0
        confirmation = campaign.confirmation_seconds()
        if campaign.phase != SEARCH:
            return confirmation
        if not self._ended:
            return None
        pace = (time.monotonic() - self._since) / self._ended
        ended = len(self._bank.ended_ids())
        ideas = max(0, campaign.plan.ideas - ended) * pace
        return min(ideas, max(0.0, campaign.time_left())) + confirmation

    def close(self) -> None:
        if self.terminal:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _print(self, line: str) -> None:
        start = "\r\x1b[K" if self.terminal else ""
        print(f"{start}{line}", file=self._out, flush=True)


def short(text: str, most: int) -> str:
    """In one line, without what a terminal would obey: titles are a stranger's."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
