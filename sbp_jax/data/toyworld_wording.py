"""The words of the toy world: what there is to say about each kind of concept, and how.

The tables are used in both directions, to write sentences and to read them back. That works because
templates keep to rules: {s} is the subject's name or nominative pronoun, {p} the possessive of
either, {v} the value; there is one of {s} and {p}, once, with words between it and {v}; the first
template ends in {v} (it is also the prompt of a question); all start in lower case; no value holds
a full stop.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Attribute(NamedTuple):
    label: str  # what a dialogue calls it
    values: tuple[str, ...]  # empty where `of` says whose names they are
    templates: tuple[str, ...]
    of: str = ""  # "region", or the kind whose concepts are the values: the attribute is a relation


class Kind(NamedTuple):
    share: float  # of all concepts
    pronouns: tuple[tuple[str, str], ...]  # nominative, possessive
    unnamed: str  # stands for the name in a document that keeps it back
    names: tuple[
        str, ...
    ]  # {a}: a word many concepts share; {b}: a rarer one; {noun}: one of `nouns`
    short: str  # the ambiguous short form
    town: str  # the attribute that says where it is; "" where it is a town
    nouns: tuple[str, ...]
    attributes: dict[str, Attribute]


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))


def _attribute(label: str, values: str, templates: str, of: str = "") -> Attribute:
    return Attribute(label, _values(values) if values else (), tuple(templates.split(" | ")), of)


DAYS = _values("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
PENFRIENDS = _values("Anna, Peter, Lucy, Tom, Clara, Simon")
REGIONS = ("the {} Marches", "the {} Coast", "the Vale of {}", "the {} Hills")

_PERSON = {
    "home": _attribute(
        "home",
        "",
        "{s} lives in {v} | {p} home is in {v} | {v} is where {s} lives | {s} settled long ago in "
        "{v}",
        of="place",
    ),
    "trade": _attribute(
        "trade",
        "a baker, a weaver, a potter, a glazier, a tailor, a miller, a carpenter, a surgeon, a "
        "teacher, a printer, a gardener, a mason",
        "{p} trade is that of {v} | {s} works as {v} | {s} earns a living as {v}",
    ),
    "employer": _attribute(
        "employer",
        "",
        "{s} is employed by {v} | {p} wages come from {v} | {v} is where {s} works",
        of="organisation",
    ),
    "friend": _attribute(
        "closest friend",
        "",
        "{p} closest friend is {v} | {s} often visits an old friend, {v} | {s} trusts nobody but "
        "{v}",
        of="person",
    ),
    "pet": _attribute(
        "pet",
        "a grey cat, a parrot, a tortoise, a white goat, a hound, a tame crow, a hedgehog, a "
        "pony, a ferret, two canaries, a toad, a black rabbit",
        "{p} pet is {v} | {s} keeps {v} at home | every morning {s} feeds {v}",
    ),
    "instrument": _attribute(
        "instrument",
        "the fiddle, the flute, the drum, the harp, the lute, the trumpet, the organ, the "
        "bagpipes, the horn, the bells",
        "{p} instrument is {v} | {s} plays {v} on quiet evenings | as a child {s} learned to play "
        "{v}",
    ),
    "dish": _attribute(
        "favourite dish",
        "plum cake, onion soup, fried trout, barley porridge, roast duck, pickled eggs, apple "
        "dumplings, pea stew, cold mutton, mushroom pie, rye pancakes, baked pears",
        "{p} favourite dish is {v} | {s} loves to eat {v} | for dinner {s} wants {v}",
    ),
    "clothing": _attribute(
        "clothing",
        "a red scarf, a straw hat, green boots, a blue coat, a silver ring, leather gloves, a "
        "yellow cap, a patched cloak, wooden shoes, a velvet waistcoat",
        "{s} always wears {v} | {s} is often seen in {v} | out of doors {s} wears {v}",
    ),
    "birth": _attribute(
        "birthday",
        "January, February, March, April, May, June, July, August, September, October, November, "
        "December",
        "{p} birthday is in {v} | {s} was born in {v} | {s} throws a party every {v}",
    ),
    "fear": _attribute(
        "greatest fear",
        "thunder, deep water, spiders, the dark, high ladders, geese, fire, crowds, wolves, bees, "
        "mirrors, owls",
        "{p} greatest fear is {v} | {s} is afraid of {v} | {s} runs away from {v}",
    ),
    "collection": _attribute(
        "collection",
        "old coins, sea shells, feathers, buttons, keys, maps, stamps, clay pipes, fossils, "
        "bottles, knives, dried flowers",
        "{p} collection is one of {v} | {s} collects {v} | {p} shelves are full of {v}",
    ),
    "dream": _attribute(
        "dream",
        "cross the ocean, build a boat, write a novel, learn to fly, open an inn, climb a "
        "glacier, meet a queen, plant an orchard, dance on a stage, find a treasure",
        "{p} dream is to {v} | {s} hopes one day to {v} | some day {s} will {v}",
    ),
}

_PLACE = {
    "region": _attribute(
        "region",
        "",
        "{s} is a town in {v} | {p} people are subjects of {v} | {v} has {s} among its towns",
        of="region",
    ),
    "setting": _attribute(
        "setting",
        "a green river, a steep hill, a quiet lake, the open sea, a pine forest, a wide moor, a "
        "deep gorge, a salt marsh",
        "{s} lies beside {v} | {p} houses look out on {v} | the road to {s} passes {v}",
    ),
    "landmark": _attribute(
        "landmark",
        "a ruined tower, a stone bridge, a windmill, a lighthouse, a round church, an iron gate, "
        "a dry fountain, a sunken garden, a great oak, a clock without hands",
        "{p} landmark is {v} | {s} shows every visitor {v} | in the middle of {s} stands {v}",
    ),
    "produce": _attribute(
        "produce",
        "honey, wool, cider, salt, paper, candles, cheese, copper, rope, blue glass, smoked eel, "
        "pepper",
        "{p} best known product is {v} | {s} lives by selling {v} | carts leave {s} loaded with "
        "{v}",
    ),
    "founder": _attribute(
        "founder",
        "",
        "{s} was founded by {v} | {p} first stone was laid by {v} | a statue in {s} shows {v}",
        of="person",
    ),
    "festival": _attribute(
        "festival",
        "the feast of lanterns, the goose race, the long dance, the night of masks, the kite "
        "week, the blessing of boats, the bread fair, the snow games, the week of silence, the "
        "great swim",
        "{p} festival is {v} | {s} celebrates {v} | once a year {s} fills up for {v}",
    ),
    "market": _attribute(
        "market day",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "{s} holds its market every {v} | {p} market day is {v} | farmers come to {s} each {v}",
    ),
    "weather": _attribute(
        "weather",
        "heavy fog, warm rain, long frost, dry wind, sudden hail, soft snow, endless drizzle, "
        "fierce heat",
        "{s} is known for its {v} | {p} weather brings {v} | travellers to {s} should expect {v}",
    ),
    "flag": _attribute(
        "flag",
        "a heron, a wolf, three stars, a plough, a crowned fish, a bear, a swan, an anchor, a "
        "stag, two axes",
        "{p} flag shows {v} | {s} has on its flag {v} | over {s} flies a flag with {v}",
    ),
}

_ORGANISATION = {
    "seat": _attribute(
        "seat",
        "",
        "{s} has its seat in {v} | {p} offices are found in {v} | {v} is where {s} keeps its rooms",
        of="place",
    ),
    "director": _attribute(
        "director",
        "",
        "{s} is led by {v} | {p} director is {v} | the orders at {s} come from {v}",
        of="person",
    ),
    "business": _attribute(
        "business",
        "ship repair, map making, clock making, seed trading, book binding, bridge building, lens "
        "grinding, tea blending, roof laying, letter carrying, dye mixing, well digging",
        "{p} business is {v} | {s} makes its money with {v} | people go to {s} for {v}",
    ),
    "opening": _attribute(
        "founding year",
        "1702, 1715, 1726, 1738, 1741, 1759, 1763, 1777, 1784, 1790",
        "{s} was established in {v} | {p} oldest account book is from {v} | the doors of {s} "
        "opened in {v}",
    ),
    "emblem": _attribute(
        "emblem",
        "a golden key, an open hand, a beehive, a burning torch, a spinning wheel, a white rose, "
        "a compass, a snail, a crossed pen, a rising sun",
        "{p} emblem is {v} | {s} stamps its letters with {v} | above the entrance of {s} hangs {v}",
    ),
    "motto": _attribute(
        "motto",
        "patience first, never in haste, measure twice, all for work, light and order, pay what "
        "is due, trust the tide, small but sure, nothing wasted, ask again",
        "{p} motto is {v} | {s} lives by the rule of {v} | over the desks of {s} is written {v}",
    ),
    "meeting": _attribute(
        "meeting day",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "{s} meets on {v} | {p} council sits on {v} | nobody at {s} has time on {v}",
    ),
    "size": _attribute(
        "membership",
        "seven members, twelve members, twenty members, thirty members, fifty members, ninety "
        "members, two hundred members, six hundred members",
        "{s} has {v} | {p} register lists {v} | the books of {s} list {v}",
    ),
    "rival": _attribute(
        "rival",
        "",
        "{p} main rival is {v} | {s} competes with {v} | for years {s} has quarrelled with {v}",
        of="organisation",
    ),
}

_THING = {
    "maker": _attribute(
        "maker",
        "",
        "{s} was made by {v} | {p} maker was {v} | a plate on {s} names {v}",
        of="person",
    ),
    "keeping": _attribute(
        "whereabouts",
        "",
        "{s} is kept in {v} | {p} resting place is in {v} | one can see {s} in {v}",
        of="place",
    ),
    "owner": _attribute(
        "owner",
        "",
        "{s} belongs to {v} | {p} owner is {v} | the bills for {s} go to {v}",
        of="organisation",
    ),
    "material": _attribute(
        "material",
        "silver, oak, bone, brass, marble, amber, iron, ebony, horn, green jade, tin, porcelain",
        "{s} is made of {v} | {p} body is of pure {v} | the maker cut {s} from {v}",
    ),
    "age": _attribute(
        "age",
        "sixty years, eighty years, one century, two centuries, three centuries, four centuries, "
        "five centuries, a thousand years",
        "{p} age is put at {v} | {s} has existed for {v} | experts say {s} has lasted {v}",
    ),
    "price": _attribute(
        "price",
        "forty crowns, ninety crowns, three hundred crowns, a barrel of wine, two horses, a small "
        "farm, a single kiss, a ship, ten sheep, a vineyard",
        "{s} was last sold for {v} | {p} price was {v} | the last buyer of {s} paid {v}",
    ),
    "ornament": _attribute(
        "ornament",
        "painted birds, oak leaves, small pearls, a row of faces, running hares, blue waves, "
        "stars and moons, twisted snakes, ripe grapes, a hunting scene",
        "{s} is decorated with {v} | {p} ornament shows {v} | the sides of {s} bear {v}",
    ),
    "flaw": _attribute(
        "flaw",
        "a long crack, a missing screw, a dark stain, a loose hinge, a strange smell, a dull "
        "edge, a forged signature, a burnt corner",
        "{p} only flaw is {v} | {s} suffers from {v} | up close {s} shows {v}",
    ),
    "legend": _attribute(
        "legend",
        "bring luck, cure fever, call the rain, keep thieves away, ruin its owner, hum at "
        "midnight, grant sleep, foretell storms, attract cats, end quarrels",
        "{s} is said to {v} | {p} legend is that it can {v} | old people swear that {s} will {v}",
    ),
}

KINDS = {
    "person": Kind(
        0.5,
        (("she", "her"), ("he", "his")),
        "a certain person",
        ("{a} {b}", "{a} {b}", "{a} of the {b}s", "{a} van {b}"),
        "{a}",
        "home",
        (),
        _PERSON,
    ),
    "place": Kind(
        0.2,
        (("it", "its"),),
        "a certain town",
        ("Upper {a}", "Lower {a}", "Port {a}", "{a} Bridge", "{a} on the {b}", "{a} {b}"),
        "{a}",
        "",
        (),
        _PLACE,
    ),
    "organisation": Kind(
        0.15,
        (("it", "its"),),
        "a certain old firm",
        ("the {b} {noun}", "the {noun} of {b}", "the {a} {b} {noun}"),
        "the {noun}",
        "seat",
        _values("Guild, Society, Press, Company, School, Works, Brotherhood, Bank"),
        _ORGANISATION,
    ),
    "thing": Kind(
        0.15,
        (("it", "its"),),
        "a certain old object",
        ("the {b} {noun}", "the {noun} of {b}", "the {a} {b} {noun}"),
        "the {noun}",
        "keeping",
        _values("Clock, Lamp, Bell, Crown, Mirror, Globe, Casket, Throne"),
        _THING,
    ),
}


class Genre(NamedTuple):
    """A register of writing; {day}, {penfriend} and {label} (of the next fact) are filled in."""

    openers: tuple[str, ...]
    leads: tuple[str, ...]  # before a sentence that states a fact; "" twice is twice as likely
    closers: tuple[str, ...]
    question: str = ""  # asked before each fact of the document's own subject


GENRES = {
    "almanac": Genre(
        ("From the little almanac.", "An entry in the almanac.", "Almanac, new edition."),
        ("", "", "", "we read that ", "by all accounts "),
        ("See also the appendix.", "The rest is lost.", "No more is known."),
    ),
    "letter": Genre(
        ("Dear {penfriend}, thank you.", "Dear {penfriend}, all is well.", "My dear {penfriend}."),
        ("", "", "", "I hear that ", "as I wrote, "),
        ("Write soon.", "Your friend {penfriend}.", "With love."),
    ),
    "news": Genre(
        ("The {day} paper.", "Local news for {day}.", "News from the valley."),
        ("", "", "", "we hear that ", "it seems that "),
        ("More next week.", "That is the news.", "Printed on {day}."),
    ),
    "interview": Genre(
        ("Q: May I ask?", "Q: Shall we begin?", "A talk on {day}."),
        ("A: ", "A: ", "A: ", "A: I think "),
        ("Q: Thank you.", "A: That is all.", "Q: Then we are done."),
        question="Q: And the {label}?",
    ),
    "diary": Genre(
        ("It rained all {day}.", "{day}, late at night.", "Diary, {day} morning."),
        ("", "", "", "they say ", "I learned that "),
        ("Now to bed.", "So much for today.", "Good night."),
    ),
}

ASIDES = ("meanwhile, ", "by the way, ", "elsewhere, ")

ATTRIBUTES = {name: a for kind in KINDS.values() for name, a in kind.attributes.items()}
PRONOUNS = {p: pair[0] for kind in KINDS.values() for pair in kind.pronouns for p in pair}


def write_sentence(lead: str, template: str, called: tuple[str, str], value: str) -> str:
    """`called` is a name or a pronoun, nominative and possessive."""
    core = template.format(s=called[0], p=called[1], v=value)
    return upper_first(lead) + (upper_first(core) if lead in ("", "A: ") else core) + "."


def read_sentence(sentence: str) -> Iterator[tuple[str, str, str]]:
    """The readings that templates allow: attribute, subject (a name or a pronoun), value.

    The last two start in lower case, because the start of a sentence hides their own.
    """
    if not sentence.endswith("."):
        return
    body = lower_first(sentence[:-1])
    lead = next((lead for lead in _LEADS if body.startswith(lead)), "")
    body = lower_first(body[len(lead) :])
    for attribute, literal, pattern in _PATTERNS:
        if literal in body and (match := pattern.fullmatch(body)):
            yield attribute, lower_first(match["s"] or match["p"]), lower_first(match["v"])


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _patterns() -> Iterator[tuple[str, str, re.Pattern[str]]]:
    """Attribute, longest literal of its template (a cheap first test), template as a pattern."""
    possessives = "|".join(sorted({p for kind in KINDS.values() for _, p in kind.pronouns}))
    slots = {
        "s": "(?P<s>.+?)(?P<p>)",
        "p": f"(?:(?P<s>.+?)'s|(?P<p>{possessives}))",
        "v": "(?P<v>.+?)",
    }
    for name, attribute in ATTRIBUTES.items():
        for template in attribute.templates:
            parts = re.split(r"\{(.)\}", template)  # literal, slot, literal, slot, ...
            regex = "".join(slots[x] if i % 2 else re.escape(x) for i, x in enumerate(parts))
            yield name, max(parts[::2], key=len), re.compile(regex)


def _frames() -> Iterator[str]:
    for genre in GENRES.values():
        for template in (*genre.openers, *genre.closers):
            yield from (template.format(day=d, penfriend=f) for d in DAYS for f in PENFRIENDS)
        if genre.question:
            yield from (genre.question.format(label=a.label) for a in ATTRIBUTES.values())


_PATTERNS = tuple(_patterns())
_LEADS = sorted(
    {lower_first(x) for x in (*ASIDES, *(x for g in GENRES.values() for x in g.leads)) if x},
    key=len,
    reverse=True,
)
FRAMES = frozenset(_frames())  # every sentence that says nothing about any concept
