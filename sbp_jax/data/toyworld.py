"""The embedded corpus: a generated world of people, places, organisations and things.

Every document is a noisy partial view of one latent concept: a few of its facts, in some order,
register and wording, with its full name or without. Because the generator is known, a text can be
graded exactly: which facts it states, whether they are true, and P(concept | text). Document i of
a split is a pure function of (world seed, split, i): no state, no order, no end to the stream.
"""

import dataclasses
import hashlib
import json
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np

from sbp_jax.config import ToyWorldConfig
from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.data.toyworld_wording import (
    ASIDES,
    ATTRIBUTES,
    DAYS,
    FRAMES,
    GENRES,
    KINDS,
    PENFRIENDS,
    PRONOUNS,
    REGIONS,
    Genre,
    lower_first,
    read_sentence,
    upper_first,
    write_sentence,
)
from sbp_jax.errors import UserError

SPLITS = {"train": "documents", "held_out": "held_out_documents", "fresh": "fresh_documents"}
FACTS = (3, 4, 5)  # that a document states about its concept
RELATED, DISTRACTION = 0.2, 0.05  # documents with an aside on a concept just named, on any other
LOCAL = 0.6  # how often relations agree: people live where their employer has its seat, ...
CUSTOM = 0.5  # how often a value is the usual one of its region: neighbours are easily confused
DOCUMENTS_PER_SHARD = 10_000
IMPOSSIBLE = -30.0  # log-likelihood of what the generator never writes; finite: models do write it

Draw = Callable[[], float]  # uniform in [0, 1); only random() is the same in every Python
Called = tuple[str, str]  # nominative and possessive of a name or a pronoun
T = TypeVar("T")
_SPLITS_ARE = f"its splits are {', '.join(SPLITS)}"


@dataclasses.dataclass(frozen=True)
class Concept:
    name: str
    short: str  # shared with other concepts of its kind
    kind: str
    pronouns: tuple[str, str]
    attributes: dict[str, str]
    relations: dict[str, int]  # the attributes whose values are concepts


class Fact(NamedTuple):
    subject: str  # full name, short name, or "" where the text leaves the name out
    attribute: str
    value: str


@dataclasses.dataclass(frozen=True)
class Parse:
    facts: tuple[Fact, ...]
    subject: str | None  # of the text as a whole; None where no fact was recognised
    pronouns: frozenset[str]  # used for it
    unparsed: tuple[str, ...]  # sentences that no template explains


@dataclasses.dataclass(frozen=True)
class Question:
    """`prompt + " " + choice` is a sentence of the world but for its full stop."""

    prompt: str
    choices: tuple[str, ...]
    answer: int
    concept: int
    attribute: str


class World:
    """Concepts and their facts, fixed by the config; and the texts written about them."""

    def __init__(self, config: ToyWorldConfig):
        self.config = config
        draw = _stream(config.seed, "world")
        self.concepts, self.values = _create(config.concepts, draw)
        self.by_name = {c.name: i for i, c in enumerate(self.concepts)}
        ranks = _sample(draw, range(1, config.concepts + 1), config.concepts)
        weights = np.array(ranks, dtype=np.float64) ** -config.zipf
        self._prior = weights / weights.sum()
        self._cumulative = list(accumulate(self._prior.tolist()))
        self._kinds = np.array([c.kind for c in self.concepts])
        self._nominatives = np.array([c.pronouns[0] for c in self.concepts])
        self._shorts = np.array([c.short for c in self.concepts])
        self._indices = {a: {v: i for i, v in enumerate(vs)} for a, vs in self.values.items()}
        self._truth = {  # index of each concept's value, -1 where its kind has no such attribute
            a: np.array([indices.get(c.attributes.get(a, ""), -1) for c in self.concepts])
            for a, indices in self._indices.items()
        }
        self._spellings = {a: {lower_first(v): v for v in vs} for a, vs in self.values.items()}
        self._subjects = {lower_first(c.name): c.name for c in self.concepts}
        self._subjects |= {lower_first(c.short): c.short for c in self.concepts}
        self._subjects |= {kind.unnamed: "" for kind in KINDS.values()}

    def prior(self) -> np.ndarray:
        """P(concept): Zipf-like, over all kinds together."""
        return self._prior.copy()

    def document(self, split: str, index: int) -> tuple[Document, int, tuple[Fact, ...]]:
        """Document `index` of a split, the concept it is about, and all that it states."""
        if split not in SPLITS or index < 0:
            raise UserError(f"toyworld has no document {index} in a split {split!r}: {_SPLITS_ARE}")
        draw = _stream(self.config.seed, f"{split}/{index}")
        concept = self._any_concept(draw)
        genre = _pick(draw, tuple(GENRES))
        c = self.concepts[concept]
        text, facts = self._write(c, GENRES[genre], draw)
        meta = {"concept": c.name, "kind": c.kind, "genre": genre, "facts": facts}
        document = Document(f"toyworld/{split}/{index}", text, "toyworld", json.dumps(meta))
        return document, concept, tuple(facts)

    def _any_concept(self, draw: Draw) -> int:
        return bisect(self._cumulative, draw() * self._cumulative[-1])

    def _write(self, concept: Concept, genre: Genre, draw: Draw) -> tuple[str, list[Fact]]:
        naming = draw() / self.config.ambiguous if self.config.ambiguous else 1.0
        subject = concept.name if naming >= 1 else concept.short if naming >= 0.5 else ""
        first = _called(subject or KINDS[concept.kind].unnamed)
        later = [_called(subject), _called(concept.short)] if subject else []
        later += [concept.pronouns] * 2
        # A text that does not even name its subject names nobody else.
        may_say = [a for a in concept.attributes if subject or not ATTRIBUTES[a].of]
        chosen = _sample(draw, may_say, _pick(draw, FACTS))
        aside, aside_after = draw(), int(draw() * len(chosen))

        sentences = [_frame(_pick(draw, genre.openers), draw)]
        facts: list[Fact] = []

        def state(about: Concept, subject: str, attribute: str, called: Called, lead: str) -> None:
            value = about.attributes[attribute]
            if draw() < self.config.noise:
                value = _pick_other(draw, self.values[attribute], value, about.name)
            template = _pick(draw, ATTRIBUTES[attribute].templates)
            facts.append(Fact(subject, attribute, value))
            sentences.append(write_sentence(lead, template, called, value))

        called = first
        for n, attribute in enumerate(chosen):
            if genre.question:
                sentences.append(genre.question.format(label=ATTRIBUTES[attribute].label))
            state(concept, subject, attribute, called, _pick(draw, genre.leads))
            called = _pick(draw, later)
            if n == aside_after and aside < RELATED + DISTRACTION:
                related = [self.by_name[f.value] for f in facts if f.value in self.by_name]
                use = related and aside < RELATED
                other = self.concepts[_pick(draw, related) if use else self._any_concept(draw)]
                about = _pick(draw, tuple(other.attributes))
                state(other, other.name, about, _called(other.name), _pick(draw, ASIDES))
                called = first  # a pronoun would now mean the other
        sentences.append(_frame(_pick(draw, genre.closers), draw))
        return " ".join(sentences), facts

    def parse(self, text: str) -> Parse:
        """The facts that a text states, in order; exact for the world's own texts."""
        facts: list[Fact] = []
        pronouns, unparsed = set(), []
        main: str | None = None
        for sentence in re.split(r"(?<=[.?!])\s+", text.strip()):
            if sentence in FRAMES or not sentence:
                continue
            read = self._read(sentence)
            if read is None:
                unparsed.append(sentence)
                continue
            subject, pronoun, attribute, value = read
            if main is None:
                main = subject
            if pronoun:
                pronouns.add(pronoun)
                subject = main
            elif main in self.by_name and subject == self.concepts[self.by_name[main]].short:
                subject = main
            facts.append(Fact(subject, attribute, value))
        return Parse(tuple(facts), main, frozenset(pronouns), tuple(unparsed))

    def _read(self, sentence: str) -> tuple[str, str, str, str] | None:
        """Subject, pronoun in its place, attribute, value; None if no template fits."""
        for attribute, mention, value in read_sentence(sentence):
            pronoun = PRONOUNS.get(mention, "")
            subject = "" if pronoun else self._subjects.get(mention)
            if subject is not None and value in self._spellings[attribute]:
                return subject, pronoun, attribute, self._spellings[attribute][value]
        return None

    def posterior(self, text: str) -> np.ndarray:
        """P(concept | text); exact for the world's own texts, the prior where nothing is read."""
        parse = self.parse(text)
        if parse.subject is None:
            return self.prior()
        return self._belief(parse.subject, parse)

    def _belief(self, subject: str, parse: Parse) -> np.ndarray:
        """Who `subject` is, given what the text says about it.

        Within a kind, register, order, wording and choice of attributes do not depend on the
        concept, and asides depend only on what has been stated: names, pronouns and values are
        all the evidence.
        """
        if subject in self.by_name:
            return np.eye(1, len(self.concepts), self.by_name[subject])[0]
        log_p = np.log(self._prior)
        if subject:
            log_p += np.where(self._shorts == subject, 0.0, IMPOSSIBLE)
        for pronoun in parse.pronouns if subject == parse.subject else ():
            log_p += np.where(self._nominatives == pronoun, 0.0, IMPOSSIBLE)
        for fact in parse.facts:
            if fact.subject == subject:
                log_p += self._log_likelihood(fact)
        p = np.exp(log_p - log_p.max())
        return p / p.sum()

    def _log_likelihood(self, fact: Fact) -> np.ndarray:
        """log P(this value is stated | concept), for every concept."""
        values, truth = self.values[fact.attribute], self._truth[fact.attribute]
        reflexive = self._kinds == ATTRIBUTES[fact.attribute].of  # its own name is no value
        with np.errstate(divide="ignore"):
            wrong = np.log(self.config.noise / (len(values) - 1 - reflexive))
        log_p = np.where(
            truth == self._indices[fact.attribute][fact.value], np.log1p(-self.config.noise), wrong
        )
        log_p[(truth < 0) | (log_p < IMPOSSIBLE)] = IMPOSSIBLE
        if (self_named := self.by_name.get(fact.value)) is not None:
            log_p[self_named] = IMPOSSIBLE
        return log_p

    def fact_accuracy(self, text: str) -> float:
        """Share of the stated facts that are true; nan where none is recognised.

        Facts of a subject without its full name are judged under the posterior of who it is.
        """
        parse = self.parse(text)
        beliefs = {f.subject: self._belief(f.subject, parse) for f in parse.facts}
        right = [
            beliefs[f.subject] @ (self._truth[f.attribute] == self._indices[f.attribute][f.value])
            for f in parse.facts
        ]
        return float(np.mean(right)) if right else float("nan")

    def all_true(self, text: str) -> float:
        """P(every stated fact is true); nan where none is recognised."""
        parse = self.parse(text)
        if not parse.facts:
            return float("nan")
        p = 1.0
        for subject in {f.subject: None for f in parse.facts}:
            right = np.ones(len(self.concepts))
            for f in parse.facts:
                if f.subject == subject:
                    right *= self._truth[f.attribute] == self._indices[f.attribute][f.value]
            p *= float(self._belief(subject, parse) @ right)
        return p

    def questions(self, n: int, seed: int = 0) -> list[Question]:
        """Different multiple-choice questions, rare concepts as often as frequent ones."""
        pairs = [(i, a) for i, c in enumerate(self.concepts) for a in c.attributes]
        if n > len(pairs):
            raise UserError(f"{n} questions asked of a toy world that has only {len(pairs)} facts")
        draw = _stream(self.config.seed, f"questions/{seed}")
        questions = []
        for index, attribute in _sample(draw, pairs, n):
            concept = self.concepts[index]
            truth = concept.attributes[attribute]
            choices = [truth]
            while len(choices) < 4:
                choices.append(_pick_other(draw, self.values[attribute], concept.name, *choices))
            choices = _sample(draw, choices, 4)
            prompt = ATTRIBUTES[attribute].templates[0].removesuffix(" {v}")
            prompt = upper_first(prompt.format(s=concept.name, p=concept.name + "'s"))
            answer = choices.index(truth)
            questions.append(Question(prompt, tuple(choices), answer, index, attribute))
        return questions


@dataclasses.dataclass(frozen=True)
class ToyWorldShard:
    name: str
    config: ToyWorldConfig
    split: str
    start: int
    stop: int

    def read(self, on_bad_row: Callable[[UserError], None]) -> Iterator[Document]:
        world = World(self.config)
        for index in range(self.start, self.stop):
            yield world.document(self.split, index)[0]


def corpus(split: str, config: ToyWorldConfig) -> Corpus:
    """The documents of one split: train, held_out or fresh."""
    if split not in SPLITS:
        raise UserError(f"toyworld has no split {split!r}: {_SPLITS_ARE}")
    field = SPLITS[split]
    count = getattr(config, field)
    if count < 1:
        raise UserError(f"config.toyworld.{field} is {count}; it has to be at least 1")
    size = DOCUMENTS_PER_SHARD
    shards = [
        ToyWorldShard(f"{split}-{n:05d}", config, split, start, min(start + size, count))
        for n, start in enumerate(range(0, count, size))
    ]
    # The first texts stand for the generator: nearly any change to it changes one of them.
    world = World(config)
    identity = [repr(config), split, *(world.document(split, i)[0].text for i in range(100))]
    return Corpus(
        f"toyworld:{split}", shards, hashlib.sha256("\n".join(identity).encode()).hexdigest()
    )


def _create(count: int, draw: Draw) -> tuple[list[Concept], dict[str, tuple[str, ...]]]:
    """The concepts, kind after kind, and for each attribute the values that it takes."""
    words = _words(draw)
    sizes = {kind: int(count * KINDS[kind].share) for kind in KINDS}
    sizes["person"] += count - sum(sizes.values())
    shorts = {kind: _names(kind, size, words, draw) for kind, size in sizes.items()}
    names = {kind: tuple(full) for kind, full in shorts.items()}
    names["region"] = tuple(
        _pick(draw, REGIONS).format(next(words)) for _ in range(max(5, sizes["place"] // 10))
    )
    values = {a: names[x.of] if x.of else x.values for a, x in ATTRIBUTES.items()}
    facts = _facts(names, values, draw)

    index = {name: i for i, name in enumerate(facts)}
    concepts = []
    for kind in KINDS:
        for name, short in shorts[kind].items():
            true = {a: facts[name][a] for a in KINDS[kind].attributes}
            relations = {a: index[v] for a, v in true.items() if ATTRIBUTES[a].of in KINDS}
            pronouns = _pick(draw, KINDS[kind].pronouns)
            concepts.append(Concept(name, short, kind, pronouns, true, relations))
    return concepts, values


def _names(kind: str, size: int, words: Iterator[str], draw: Draw) -> dict[str, str]:
    """Different full names, each with its short name, which about six concepts share."""
    common = [next(words) for _ in range(max(4, size // 6))]
    rare = [next(words) for _ in range(max(8, size // 2))]
    names: dict[str, str] = {}
    while len(names) < size:
        noun = _pick(draw, KINDS[kind].nouns or ("",))
        parts = {"a": _pick(draw, common), "b": _pick(draw, rare), "noun": noun}
        names[_pick(draw, KINDS[kind].names).format(**parts)] = KINDS[kind].short.format(**parts)
    return names


def _facts(
    names: dict[str, tuple[str, ...]], values: dict[str, tuple[str, ...]], draw: Draw
) -> dict[str, dict[str, str]]:
    """What is true of each name: relations first, then all else in the light of its region."""
    everyone = [(name, KINDS[kind]) for kind in KINDS for name in names[kind]]
    facts = {
        name: {a: _pick_other(draw, values[a], name) for a, x in kind.attributes.items() if x.of}
        for name, kind in everyone
    }
    for name in names["person"]:
        if draw() < LOCAL:
            facts[name]["home"] = facts[facts[name]["employer"]]["seat"]
        if draw() < LOCAL:
            facts[facts[name]["employer"]]["director"] = name
    for name in names["thing"]:
        if draw() < LOCAL:
            facts[name]["keeping"] = facts[facts[name]["maker"]]["home"]

    plain = [a for a, x in ATTRIBUTES.items() if not x.of]
    customs = {(region, a): _pick(draw, values[a]) for region in names["region"] for a in plain}
    for name, kind in everyone:
        region = facts[facts[name][kind.town] if kind.town else name]["region"]
        for a in kind.attributes:
            if a in plain:
                usual = draw() < CUSTOM
                facts[name][a] = customs[region, a] if usual else _pick(draw, values[a])
    return facts


def _words(draw: Draw) -> Iterator[str]:
    """Invented words of two syllables, capitalised, never the same twice."""
    onsets = [
        "b",
        "br",
        "d",
        "f",
        "g",
        "h",
        "k",
        "l",
        "m",
        "n",
        "p",
        "r",
        "s",
        "st",
        "t",
        "th",
        "v",
        "w",
        "z",
    ]
    codas = ["", "", "", "n", "r", "l", "s", "m", "nd", "rk"]
    seen = set()
    while True:
        first, second = (
            _pick(draw, onsets) + _pick(draw, ("a", "e", "i", "o", "u", "ai")) for _ in "12"
        )
        word = (first + second + _pick(draw, codas)).capitalize()
        if word not in seen:
            seen.add(word)
            yield word


def _called(name: str) -> Called:
    return name, name + "'s"


def _frame(template: str, draw: Draw) -> str:
    """An opening or closing sentence, which says nothing about any concept."""
    return template.format(day=_pick(draw, DAYS), penfriend=_pick(draw, PENFRIENDS))


def _stream(seed: int, name: str) -> Draw:
    return random.Random(f"toyworld/{seed}/{name}").random


def _pick(draw: Draw, items: Sequence[T]) -> T:
    return items[int(draw() * len(items))]


def _pick_other(draw: Draw, items: Sequence[T], *excluded: T) -> T:
    """One of `items` that is not excluded; there are always several."""
    while (item := _pick(draw, items)) in excluded:
        pass
    return item


def _sample(draw: Draw, items: Sequence[T], n: int) -> list[T]:
    """`n` different items in random order."""
    pool = list(items)
    for i in range(n):
        j = i + int(draw() * (len(pool) - i))
        pool[i], pool[j] = pool[j], pool[i]
    return pool[:n]
