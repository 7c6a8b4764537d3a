"""EntiGraph without a language model: an engine that finds entities by capitals and counts, and
answers to several of them with the sentences that bear them.

It says nothing that the document does not; only what stands together is new. Requests are those of
the layout `json` (wording.py).
"""

import functools
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from entigraph.generation.entities import names, pattern
from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Completion, Prompt, Request

VERSION = 1  # of what it writes
SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’)]*\s+|\n+")
WORD = re.compile(r"[^\W\d_][\w'’-]*")
JOINING = frozenset(
    "of on the de la le van von der den du di da del al el bin ibn y".split()  # noqa: SIM905
)
FUNCTION_WORDS = frozenset(
    """a about above across after again against all almost also although always am among an and
    another any are around as at away back be because been before being below between both but by
    came can cannot come could did do does done down during each either else elsewhere enough even
    ever every few first for found from further gave get give go goes gone good got great had has
    have having he her here hers herself him himself his how however i if in indeed into is it its
    itself just keep kept knew know known last later least less let like little long look looked
    made make makes many may me might mine more most much must my myself near never next no nobody
    none nor not nothing now of off often old on once one only or other others our ours out over own
    perhaps quite rather really said same saw say says see seem seemed seems seen shall she should
    since so some something soon still such take taken tell than that the their theirs them then
    there these they thing things think this those though through thus to together told too took
    toward towards two under until up upon us used using very want wanted was way we well went were
    what when where whether which while who whole whom whose why will with within without would yes
    yet you your yours""".split()  # noqa: SIM905
)
FOLLOWING = frozenset(
    "he she it they his her hers its their theirs him them this these".split()  # noqa: SIM905
)
RARELY = 2  # times that a word has to be there to be an entity without a capital
LEAST = 8  # entities of a document, where it has so many words


def sentences(text: str) -> list[str]:
    return [s for s in (" ".join(part.split()) for part in SENTENCE.split(text) if part) if s]


def found_entities(text: str) -> list[str]:
    """Capitalised phrases, then words that come again, each the more frequent the earlier."""
    lines = sentences(text)
    lower = {word for line in lines for word in WORD.findall(line) if word[0].islower()}
    runs = [run for line in lines for run in _runs(line)]
    # At the beginning of a sentence every word has a capital: these have one elsewhere, too.
    surely = {
        _bare(word) for run, opens in runs for word in (run[1:] if _doubtful(run, opens) else run)
    }
    openings = Counter(_bare(run[0]) for run, opens in runs if opens)
    found: Counter[str] = Counter()
    for run, opens in runs:
        first = _bare(run[0])
        again = first in surely or (openings[first] > 1 and first.lower() not in lower)
        if _doubtful(run, opens) and not again:
            run = run[1:]
        while run and run[0].casefold() in JOINING | FUNCTION_WORDS:
            run = run[1:]
        if run and len(name := " ".join([*run[:-1], _bare(run[-1])])) > 1:
            found[name] += 1
    words = Counter(word for line in lines for word in WORD.findall(line) if _is_term(word))
    terms = [word for word, count in words.most_common() if count >= RARELY]
    listed = _with_short_forms(found) + terms[: max(LEAST, len(lines) // 2)]
    rest = sorted(words, key=len, reverse=True)  # of a short text: long words say most
    return listed + [word for word in rest if word not in listed][: max(0, LEAST - len(listed))]


def _doubtful(run: list[str], opens: bool) -> bool:
    return opens and not (run[1:] and run[1][0].isupper())


def _with_short_forms(found: Counter[str]) -> list[str]:
    """A name of one word that only one longer name begins or ends with stands behind that; not
    what a small word joins to it: the London of a Society of London is a thing of its own.
    """
    ends: dict[str, set[str]] = {}
    for name in found:
        words = name.split()
        last = words[-1:] if words[-2:-1] and words[-2] not in JOINING else []
        for word in {words[0], *last} - {name}:
            ends.setdefault(word, set()).add(name)
    short = {name: min(ends[name]) for name in found if len(ends.get(name, ())) == 1}
    counts = Counter({name: n for name, n in found.items() if name not in short})
    for name, longer in short.items():
        counts[longer] += found[name]
    behind = {longer: name for name, longer in short.items()}
    return [
        f"{name} ({behind[name]})" if name in behind else name for name, _ in counts.most_common()
    ]


def _runs(line: str) -> Iterator[tuple[list[str], bool]]:
    """Capitalised words in a row, with small ones that join them; whether a sentence opens so."""
    run: list[str] = []
    joints: list[str] = []
    end = 0
    opens = False
    for match in WORD.finditer(line):
        word, before = match[0], line[end : match.start()]
        goes_on = bool(run) and not before.strip() and _bare(run[-1]) == run[-1]
        if goes_on and word[0].isupper():
            run, joints = [*run, *joints, word], []
        elif goes_on and word in JOINING:
            joints.append(word)
        else:
            if run:
                yield run, opens
            run, joints = [word] if word[0].isupper() else [], []
            opens = not end or before.strip().endswith((":", '"', "“", "‘"))
        end = match.end()
    if run:
        yield run, opens


def _bare(word: str) -> str:
    return re.sub(r"['’]s?$", "", word)


def _is_term(word: str) -> bool:
    return word[0].islower() and len(word) > 3 and word not in FUNCTION_WORDS


def assembled(heading: str, text: str, entities: Sequence[str], seed: int) -> Iterator[str]:
    """Paragraphs on each entity and on all of them: the sentences that name them, in an order that
    the seed draws; one that begins with a pronoun stays behind the one before it.
    """
    draw = random.Random(seed)
    joined = _units(text)
    named = list(zip(*(_naming(text, entity) for entity in entities), strict=True))
    titles = [names(entity)[0] for entity in entities]
    order = draw.sample(range(len(entities)), len(entities))
    together = _and([titles[i] for i in order])
    yield f"{together} in {heading}."
    for i in order:
        own = [unit for unit, has in zip(joined, named, strict=True) if has[i]]
        draw.shuffle(own)
        if own:
            yield f"{titles[i]}: {' '.join(own)}"
    most = max((sum(has) for has in named), default=0)
    both = [u for u, has in zip(joined, named, strict=True) if sum(has) == most > 1]
    draw.shuffle(both)
    if both:
        yield f"{together}: {' '.join(both)}"


@functools.lru_cache(maxsize=4)
def _units(text: str) -> list[str]:
    """Sentences, those that begin with a pronoun behind the ones before them."""
    units: list[str] = []
    for line in sentences(text):
        first = WORD.match(line)
        if units and first and first[0].casefold() in FOLLOWING:
            units[-1] += f" {line}"
        else:
            units.append(line)
    return units


@functools.lru_cache(maxsize=4096)
def _naming(text: str, entity: str) -> list[bool]:
    """Which of them name an entity."""
    known = pattern(entity)
    return [bool(known.search(unit)) for unit in _units(text)]


def _and(titles: Sequence[str]) -> str:
    return " and ".join([", ".join(titles[:-1]), titles[-1]] if len(titles) > 1 else titles)


class Extractive:
    """Tokens are those of `count`, by which its texts are cut at whole paragraphs."""

    tokenizer = None

    def __init__(self, count: Callable[[str], int], counted_by: str = ""):
        self._count = count
        self.fingerprint = files.sha256(f"extractive {VERSION} {counted_by}".encode())

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            text, whole = self._answer(request)
            reason = "stop" if whole else "length"
            prompt = self.prompt_tokens(request.prompt)
            yield Completion(request.id, text, reason, prompt, self._count(text))

    def _answer(self, request: Request) -> tuple[str, bool]:
        if not isinstance(request.prompt, str):
            raise UserError("the extractive engine takes requests of the layout json only")
        asked = json.loads(request.prompt)
        if asked["ask"] == "entities":
            lines, found = sentences(asked["text"]), found_entities(asked["text"])
            summary = lines[0] if lines else ""
            return json.dumps({"summary": summary, "entities": found}, ensure_ascii=False), True
        kept = ""
        for paragraph in assembled(
            asked["heading"], asked["text"], asked["entities"], request.seed
        ):
            longer = f"{kept}\n\n{paragraph}" if kept else paragraph
            if self._count(longer) > request.sampling.max_tokens:
                return kept, False
            kept = longer
        return kept, True

    def prompt_tokens(self, prompt: Prompt) -> int:
        """None: nothing reads them."""
        return 0

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        return 0.0

    def close(self) -> None:
        pass
