"""The researcher without a model: typed edits of literals, combined and refined like any ideas.

It knows nothing of the task, so what a search finds with it is what search alone is worth. The same
seed and wish give the same edits of the same parents.
"""

import difflib
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from research_env.researcher import sites
from research_env.researcher.interface import EXPLOIT, EXPLORE, Proposal, Want
from research_env.researcher.sites import FLAG, NUMBER, Site

if TYPE_CHECKING:
    from research_env.bank import Bank

NAME = "mutator"
_FACTORS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 1.25, 1.4, 2.0, 3.0, 5.0, 10.0)
_COUNTS = (0.25, 0.5, 0.5, 0.7, 1.4, 2.0, 2.0, 4.0)  # memory and time go with these
_TRIES = 30  # to find a change that the bank does not have
_MOST_EDITS = 5

Sources = Mapping[str, str]


class Mutator:
    """`sources` are the files that may be changed; `applied` gives them as a diff leaves them, None
    if it does not apply.
    """

    def __init__(self, sources: Sources, seed: int, applied: Callable[[str], Sources | None]):
        self._original, self._seed, self._applied = dict(sources), seed, applied
        self._remembered: dict[str, Sources] = {"": self._original}
        self._found: dict[tuple[str, str], list[Site]] = {}
        self._choices = sites.choices_of(self._original.values())
        self.sites = self._sites(self._original)

    def propose(self, bank: "Bank", want: Want) -> Proposal | None:
        for attempt in range(_TRIES):
            draw = random.Random(f"{self._seed}/{want.wish}/{attempt}")
            changed = self._changed(bank, want, draw)
            diff = unified(self._original, changed)
            if diff and bank.known(diff) is None:
                self._remembered[diff] = changed
                parents = want.parents if want.kind == EXPLOIT else ()
                title, text = self._told(changed)
                return Proposal(title, text, diff, parents, want.kind, NAME)
        return None

    def repair(self, proposal: Proposal, error: str) -> Proposal | None:
        return None  # its edits apply by construction, and it cannot read an error

    def _changed(self, bank: "Bank", want: Want, draw: random.Random) -> Sources:
        if want.kind == EXPLOIT and want.parents:
            parents = [self.changed_by(bank.idea(parent).diff) for parent in want.parents]
            base = parents[0]
            for other in parents[1:]:
                base = self._crossed(base, other, draw)
            # A combination is an idea by itself; refining one parent is always an edit more.
            edits = _geometric(draw, 0.4) + (len(parents) == 1)
            return self._edited(base, edits, draw)
        avoid: set[tuple[str, str]] = set()
        if want.kind == EXPLORE:
            for parent in want.parents:
                avoid |= self._touched(self.changed_by(bank.idea(parent).diff))
        return self._edited(self._original, 1 + _geometric(draw, 0.5), draw, avoid)

    def changed_by(self, diff: str) -> Sources:
        """The files with a parent's change; without it if the parent never applied."""
        if diff not in self._remembered:
            self._remembered[diff] = self._applied(diff) or self._original
        return self._remembered[diff]

    def _edited(
        self,
        sources: Sources,
        edits: int,
        draw: random.Random,
        avoid: set[tuple[str, str]] | None = None,
    ) -> Sources:
        every = self._sites(sources)
        new = [site for site in every if (site.path, site.name) not in (avoid or ())]
        pool = new or every
        chosen = draw.sample(pool, min(edits, len(pool), _MOST_EDITS))
        return _with(sources, [(site, edited(site, draw)) for site in chosen])

    def _crossed(self, one: Sources, other: Sources, draw: random.Random) -> Sources:
        """Where the two differ, either's; of files with another structure, the first one's."""
        edits = []
        for path, source in one.items():
            ours, theirs = self._in(path, source), self._in(path, other.get(path, ""))
            if [site.name for site in ours] != [site.name for site in theirs]:
                continue
            for site, its in zip(ours, theirs, strict=True):
                if site.text != its.text and draw.random() < 0.5:
                    edits.append((site, its.text))
        return _with(one, edits)

    def _touched(self, changed: Sources) -> set[tuple[str, str]]:
        return {(site.path, site.name) for site, _ in self._differences(changed)}

    def _differences(self, changed: Sources) -> list[tuple[Site, Site]]:
        pairs: list[tuple[Site, Site]] = []
        for path, source in self._original.items():
            before, after = self._in(path, source), self._in(path, changed.get(path, ""))
            if len(before) == len(after):
                pairs += [(a, b) for a, b in zip(before, after, strict=True) if a.text != b.text]
        return pairs

    def _told(self, changed: Sources) -> tuple[str, str]:
        pairs = self._differences(changed)
        title = "; ".join(f"{a.name or 'function'} {a.text} → {b.text}" for a, b in pairs)
        words = "; ".join(
            f"{a.name or 'a function'} in {a.path} from {a.text} to {b.text}" for a, b in pairs
        )
        return title[:200] or "a change of structure", f"Set {words}."

    def _sites(self, sources: Sources) -> list[Site]:
        return [site for path in sorted(sources) for site in self._in(path, sources[path])]

    def _in(self, path: str, source: str) -> list[Site]:
        if (path, source) not in self._found:
            python = path.endswith(".py")
            self._found[path, source] = sites.find(path, source, self._choices) if python else []
        return self._found[path, source]


def edited(site: Site, draw: random.Random) -> str:
    """Another value of the same type."""
    if site.kind == FLAG:
        return "False" if site.text == "True" else "True"
    if site.kind == NUMBER:
        return _number(site.text, draw)
    quote = site.text[0] if site.text[0] in "\"'" else ""
    return quote + draw.choice([o for o in site.options if o != site.text.strip("\"'")]) + quote


def unified(before: Sources, after: Sources) -> str:
    """A diff of the files that differ, as git writes it."""
    parts = []
    for path in sorted(before):
        if before[path] != after[path]:
            lines = difflib.unified_diff(
                before[path].splitlines(keepends=True),
                after[path].splitlines(keepends=True),
                f"a/{path}",
                f"b/{path}",
            )
            for line in lines:
                parts.append(
                    line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
                )
    return "".join(parts)


def _number(text: str, draw: random.Random) -> str:
    value = float(text) if _is_float(text) else int(text, 0)
    if isinstance(value, int):
        if value == 0:
            return str(draw.choice((1, 2, 10, 100)))
        factor = draw.choice(_COUNTS)
        power_of_two = value & (value - 1) == 0
        scaled = int(value * (2.0 ** round(_log2(factor)) if power_of_two else factor))
        near = [value - 1, value + 1] if value < 8 else []
        options = [n for n in [scaled, *near] if n >= 1 and n != value]
        return str(draw.choice(options or [value + 1]))
    if value == 0:
        return draw.choice(("0.001", "0.01", "0.1"))
    if 0.8 <= value < 1:  # a decay or a share: what counts is how far it is from 1
        rest = (1 - value) * draw.choice([f for f in _FACTORS if (1 - value) * f < 0.95])
        short = f"{1 - float(f'{rest:.2g}'):.10g}"
        return short if float(short) not in (value, 1.0) else f"{0.9 * value:.3g}"
    new = value * draw.choice([f for f in _FACTORS if not (value < 1 <= value * f)])
    short = f"{new:.3g}" if float(f"{new:.3g}") != value else f"{new:.9g}"
    return f"{short}.0" if short.isdigit() else short  # still a float


def _is_float(text: str) -> bool:
    return not text.lower().startswith(("0x", "0b", "0o")) and any(c in text for c in ".eE")


def _log2(factor: float) -> float:
    return {0.25: -2.0, 0.5: -1.0, 0.7: -1.0, 1.4: 1.0, 2.0: 1.0, 4.0: 2.0}[factor]


def _geometric(draw: random.Random, more: float) -> int:
    count = 0
    while count < _MOST_EDITS and draw.random() < more:
        count += 1
    return count


def _with(sources: Sources, edits: list[tuple[Site, str]]) -> Sources:
    return {
        path: sites.replaced(source, [edit for edit in edits if edit[0].path == path])
        for path, source in sources.items()
    }
