"""Which ideas the bank has already, by their words and by the code that they come to."""

import threading
from collections.abc import Callable, Sequence

from research_env.bank import Bank, Idea
from research_env.outcome import State
from research_env.researcher import likeness
from research_env.researcher.changes import Codebase, Files, NotApplied
from research_env.researcher.interface import BASELINE

# What such an idea is worth nobody knows yet: it may come again.
_UNKNOWN = (State.PATCH_FAILED, State.INFRASTRUCTURE)


class Known:
    def __init__(self, code: Codebase, alike: float):
        self._code, self._alike = code, alike
        self._unchanged = likeness.tree_key(code.original)
        self._lock = threading.Lock()
        self._traits: dict[int, likeness.Traits] = {}
        self._claimed: dict[str, likeness.Traits] = {}
        self._keys: dict[int, tuple[str, str]] = {}  # idea -> its change, and what that comes to

    def claim(self, bank: Bank, text: str, but: Sequence[int] = ()) -> str:
        """Whose idea it was, in words for its author; nothing where it is new. Then it is taken,
        until `release`: by then it is in the bank, or nothing has come of it. Who refines an idea
        tells it again: `but` are ideas that it may be like.
        """
        own = likeness.traits(text)
        others = []
        for idea in _tried(bank):
            if idea.id in but:
                continue
            with self._lock:
                if idea.id not in self._traits:
                    self._traits[idea.id] = likeness.traits(f"{idea.title}\n{idea.text}")
                others.append((idea.id, self._traits[idea.id]))
        if (found := likeness.nearest(own, others)) and found[1] >= self._alike:
            return f"it was had before, as idea {found[0]}"
        with self._lock:
            claimed = list(enumerate(self._claimed.values()))
            if (found := likeness.nearest(own, claimed)) and found[1] >= self._alike:
                return "another one like it is being tried"
            self._claimed[text] = own
        return ""

    def release(self, text: str) -> None:
        with self._lock:
            self._claimed.pop(text, None)

    def change(self, bank: Bank) -> Callable[[Files], str]:
        """Says of the files that a change leads to what `claim` says of words."""
        known: dict[str, int] = {}
        for idea in _tried(bank):
            known.setdefault(self._key(idea), idea.id)

        def wrong(files: Files) -> str:
            key = likeness.tree_key(files)
            if key == self._unchanged:
                return "that changes nothing of what the program does"
            return f"that is the very change of idea {known[key]}" if key in known else ""

        return wrong

    def correction(self, start: Files) -> Callable[[Files], str]:
        """Of a change that failed, which started from these."""
        before = likeness.tree_key(start)

        def wrong(files: Files) -> str:
            key = likeness.tree_key(files)
            if key == self._unchanged:
                return "with that, the code is what it was before the idea"
            return "that changes nothing of what the program does" if key == before else ""

        return wrong

    def _key(self, idea: Idea) -> str:
        with self._lock:
            diff, key = self._keys.get(idea.id, ("", ""))
        if diff == idea.diff:
            return key
        try:
            key = likeness.tree_key(self._code.changed(self._code.original, idea.diff))
        except NotApplied:
            key = ""
        with self._lock:
            self._keys[idea.id] = (idea.diff, key)
        return key


def _tried(bank: Bank) -> list[Idea]:
    return [i for i in bank.ideas() if i.kind != BASELINE and i.state not in _UNKNOWN]
