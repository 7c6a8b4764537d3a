"""Names of a document's entities: one spelling for each, whatever case, article or alias it has.

Two names are one entity's if they are the same but for case, articles, quotes, spacing, hyphens and
a possessive; if one gives the other in parentheses ("Federal Reserve (the Fed)", "Fed"); or if one
is the initials of the other ("IBM"). Nothing is merged by meaning or by surname alone: "Mr. Smith"
and "Mrs. Smith" are two.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "summary": {"type": "string"},
            "entities": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["summary", "entities"],
    }
)
LONGEST = 100  # characters of a name; what is longer is a sentence
ARTICLES = re.compile(r"^(?:the|an?)\s+")
ALIASES = re.compile(
    r"\s*[(\[]\s*(?:also known as|a\.?k\.?a\.?|or)?\s*([^()\[\]]+?)\s*[)\]]\s*", re.I
)
POSSESSIVE = re.compile(r"['’]s?$")
NOT_WORD = re.compile(r"[\W_]+")


def listed(answer: str, whole: bool) -> list[str]:
    """The entities of an answer that follows the schema; `ValueError` says why it does not."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        from sbp_jax.inference.api import structured  # which mends fences and commas

        value = json.loads(structured.conform(answer, SCHEMA, whole))
    names = value.get("entities") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("no list of names under 'entities'")
    return names


def key(name: str) -> str:
    """The same for all spellings of one name; empty for what is none."""
    plain = unicodedata.normalize("NFKC", name).casefold().replace("’", "'")
    words = NOT_WORD.sub(" ", POSSESSIVE.sub("", plain.strip(" \t\n\"'“”‘.,;:!?"))).strip()
    return ARTICLES.sub("", words)


def names(entity: str) -> list[str]:
    """An entity's name, and those that stand beside it in parentheses."""
    outside = " ".join(ALIASES.sub(" ", entity).split())
    return [name for name in [outside, *ALIASES.findall(entity)] if key(name)]


def merged(lists: Iterable[Sequence[str]]) -> list[str]:
    """Each entity once, in the order and the spelling in which it comes first."""
    spellings: list[str] = []
    groups: dict[str, int] = {}  # by key: the number in `spellings` of the first that has it
    initials: dict[str, int] = {}  # of names of several words
    for entity in (" ".join(entity.split()) for some in lists for entity in some):
        own = names(entity)
        if not own or len(entity) > LONGEST:
            continue
        keys = {key(name) for name in own}
        known = [groups[k] for k in keys if k in groups]
        known += [initials[name] for name in own if name in initials]
        known += [groups[key(i)] for i in map(acronym, own) if _is_spelt(i, spellings, groups)]
        number = min(known, default=len(spellings))
        if number == len(spellings):
            spellings.append(entity)
        for other in set(known) - {number}:  # which this one shows to be the same
            spellings[other] = ""
            for table in (groups, initials):
                table.update({k: number for k, n in table.items() if n == other})
        groups.update(dict.fromkeys(keys, number))
        initials.update({i: number for i in map(acronym, own) if i})
    return [spelling for spelling in spellings if spelling]


def acronym(name: str) -> str:
    """The initials of three capitalised words and more, of two none: too many share them."""
    words = [word for word in NOT_WORD.split(name) if word[:1].isupper()]
    return "".join(word[0] for word in words) if len(words) >= 3 else ""


def _is_spelt(initials: str, spellings: Sequence[str], groups: dict[str, int]) -> bool:
    """Whether they are an entity's name, in capitals as initials are."""
    number = groups.get(key(initials)) if initials else None
    return number is not None and initials in [
        name for spelling in spellings[number : number + 1] for name in names(spelling)
    ]


def mention(text: str, entity: str) -> int:
    """Where a text first names an entity, by any of its names; -1 where it does not."""
    found = [match.start() for match in (pattern(entity).search(text),) if match]
    return found[0] if found else -1


def pattern(entity: str) -> re.Pattern[str]:
    """Of an entity's names as whole words, in any case, with or without the article."""
    forms = []
    for name in names(entity):
        bare = re.sub(r"^(?:the|an?)\s+(?=\S)", "", name.strip(" \"'“”‘’"), flags=re.I)
        forms.append(r"\s+".join(map(re.escape, bare.split())))
    forms = sorted({form for form in forms if form}, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(forms) or '(?!)'})(?!\w)", re.I)
