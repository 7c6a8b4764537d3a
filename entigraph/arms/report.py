"""The report of a study: one page that needs nothing beside it, in the style of the loop's, and its
figures as PNGs. Made of results.json alone.

    python -m entigraph.arms.report runs/entigraph
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import logging
from pathlib import Path
from typing import Any

from sbp_jax import files
from sbp_jax.report import RESULTS, document, read_results, results_file
from sbp_jax.reporting import plots, wording
from sbp_jax.reporting.figures import Bars, Figure, Interval, Intervals, Line, Lines, Part
from sbp_jax.reporting.markup import Markup, tag
from sbp_jax.reporting.sections import big, charted, config, rows, section
from sbp_jax.reporting.wording import percent

METHODS = {  # a name, what it is, and its number in STYLES
    "before": ("Before", "the model that all go on from", 2),
    "raw": ("Raw", "the library again and again", 1),
    "extractive": ("Extractive", "sentences of the library put together anew, by no model", 5),
    "entigraph": ("EntiGraph", "on pairs and triples of entities", 0),
    "rephrase_easy": ("Rephrase, easy", "in a toddler's words", 7),
    "rephrase_medium": ("Rephrase", "in other words", 3),
    "rephrase_hard": ("Rephrase, hard", "terse and erudite", 6),
    "qa": ("Questions", "questions and answers about it", 9),
}
BY_REWRITER = "by the rewriter, which knows the grammar, not the answers"
log = logging.getLogger(__name__)


def main(place: str) -> None:
    path = results_file(Path(place))
    log.info("%s", write_report(path.parent, read_results(path)))


def write_report(folder: Path, results: dict[str, Any]) -> Path:
    made = figures(results)
    for name, figure in made.items():
        files.write_bytes(folder / f"{name}.png", plots.png(figure))
    foot = f"Made by entigraph from {RESULTS}, which holds every figure of this page."
    whole = document(str(results["title"]), page(results, made), foot)
    files.write_bytes(folder / "index.html", whole.encode())
    return folder / "index.html"


def figures(results: dict[str, Any]) -> dict[str, Figure]:
    made = {
        "closed_book": _accuracy(results, "closed_book", "Closed book: questions answered right"),
        "open_book": _accuracy(results, "open_book", "Open book: passages before the question"),
        "scaling": _scaling(results),
        "consumed": _consumed(results),
    }
    return {name: figure for name, figure in made.items() if figure}


def whole_arms(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [arm for arm in results["arms"] if arm["share"] == 1]


def _accuracy(results: dict[str, Any], field: str, title: str) -> Intervals:
    found = [("before", results["before"]), *((a["method"], a) for a in whole_arms(results))]
    every = [
        Interval(named(results, method), METHODS[method][2], **scores[field])
        for method, scores in found
    ]
    return Intervals(title, "share of the questions; a quarter is chance", every)


def _scaling(results: dict[str, Any]) -> Lines | None:
    lines = []
    for method in dict.fromkeys(arm["method"] for arm in results["arms"]):
        of_method = [arm for arm in results["arms"] if arm["method"] == method]
        scores = [arm["closed_book"] for arm in of_method]
        known = all(score["low"] is not None for score in scores)
        lines.append(
            Line(
                named(results, method),
                METHODS[method][2],
                [arm["synthetic_tokens"] for arm in of_method],
                [score["value"] for score in scores],
                [score["low"] for score in scores] if known else [],
                [score["high"] for score in scores] if known else [],
            )
        )
    if not lines or max(len(line.x) for line in lines) < 2:
        return None
    return Lines(
        "Closed-book accuracy against synthetic tokens",
        "tokens of the method's texts in training",
        "share right",
        lines,
        note="Each point is a training of its own; bands are 95% intervals over documents.",
    )


def _consumed(results: dict[str, Any]) -> Bars:
    styles = {"synthetic": 0, "replay": 3}
    every = [
        (
            named(results, arm["method"]),
            [
                Part(
                    {"synthetic": "Its texts", "replay": "General text"}[name],
                    styles[name],
                    source["share"],
                    f"{percent(source['share'])}, {source['passes']:.1f} passes",
                )
                for name, source in arm["consumed"].items()
            ],
            "",
        )
        for arm in whole_arms(results)
    ]
    return Bars("What each arm has read: share of its training tokens", every)


def page(results: dict[str, Any], made: dict[str, Figure]) -> Markup:
    def drawn(*names: str) -> list[Markup]:
        return [charted(made[name]) for name in names if name in made]

    sections = [
        section("What is known", _table(results)),
        section("Closed book and open book", drawn("closed_book", "open_book")),
        section("Against the library itself", _against_raw(results)),
        section("New knowledge without loss of the old", _forgetting(results)),
        section("More tokens", [*drawn("scaling"), *_laws(results)]),
        section("What was read", drawn("consumed"), "Counted from the data actually consumed."),
        section("Samples", _samples(results)),
        section("Config", config(results)),
    ]
    return tag("main", _header(results), headline(results), sections)


def _header(results: dict[str, Any]) -> Markup:
    about = results["library"]
    facts = [
        results["date"],
        f"{about['documents']} documents, {about['questions']} questions",
        results["hardware"],
    ]
    return tag(
        "header",
        tag("h1", results["title"]),
        tag("p", " · ".join(facts), class_="facts"),
        tag("p", results["note"], class_="facts") if results["note"] else None,
    )


def headline(results: dict[str, Any]) -> Markup:
    """The best method beside the library itself; in words, also where it is no better."""
    before, arms = results["before"]["closed_book"]["value"], whole_arms(results)
    best = max(arms, key=lambda arm: arm["closed_book"]["value"])
    name, value = named(results, best["method"]), best["closed_book"]["value"]
    raw = next((arm["closed_book"]["value"] for arm in arms if arm["method"] == "raw"), None)
    said = f"of the questions are answered right, closed book, after {name}. Before, "
    said += f"{percent(before)} were"
    said += f"; after the library itself, {percent(raw)} are" if raw is not None else ""
    items = [
        tag(
            "li",
            tag("b", f"{named(results, method)} against raw: {_points(d)} points. "),
            verdict(d),
        )
        for method, found in results["against_raw"].items()
        for d in [found["closed_book"]]
    ]
    one = "One training of each: intervals are over documents, and know nothing of other seeds."
    return big(
        percent(value), f"{said}. A quarter is chance.", tag("ul", items),
        tag("p", one, class_="caveat"),
    )  # fmt: skip


def verdict(difference: dict[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None:
        return "Without an interval, this may be chance."
    if low > 0:
        return "Its interval excludes zero: more is known."
    return "Its interval excludes zero: less is known." if high < 0 else (
        "Its interval includes zero: no difference is shown."
    )  # fmt: skip


def _points(difference: dict[str, Any]) -> str:
    if difference["low"] is None:
        return wording.signed(f"{100 * difference['value']:+.1f}")
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return wording.signed(f"{value:+.1f} [{low:+.1f}, {high:+.1f}]")


def _score(score: dict[str, Any] | None) -> str:
    if not score:
        return wording.DASH
    return f"{percent(score['value'], 1)} ({wording.interval(score['low'], score['high'])})"


def named(results: dict[str, Any], method: str) -> str:
    return METHODS[method][0] + (", rewriter" if _rewritten(results, method) else "")


def _rewritten(results: dict[str, Any], method: str) -> bool:
    return bool(results["rewriter"]) and method not in ("before", "raw", "extractive")


def _label(results: dict[str, Any], method: str) -> list[Any]:
    name, what, style = METHODS[method]
    if _rewritten(results, method):
        what = BY_REWRITER
    key = tag("i", class_="swatch", style=f"background:var(--c{style})")
    return [tag("span", key, name, class_="arm"), tag("small", what)]


def _table(results: dict[str, Any]) -> list[Markup]:
    facts = "general_facts" in results["before"]
    head = ["", "Closed book", "Open book", *(["General facts"] if facts else []),
            "General text", "Texts, tokens"]  # fmt: skip
    before = ("before", results["before"])
    lines = [
        [
            _label(results, method),
            _score(scores["closed_book"]),
            _score(scores["open_book"]),
            *([_score(scores.get("general_facts"))] if facts else []),
            wording.loss(scores["general_loss"]["value"]),
            wording.count(scores["texts"]["tokens"]) if "texts" in scores else wording.DASH,
        ]
        for method, scores in (before, *((arm["method"], arm) for arm in whole_arms(results)))
    ]
    read = max(arm["synthetic_tokens"] for arm in results["arms"])
    lead = (
        "Four-way questions, answered by the likeliest choice; intervals are 95%, over documents. "
        "General text: nats a token on documents that no training has seen. Whatever its texts "
        f"come to, each arm reads {wording.count(read)} tokens of them, and the same general text."
    )
    return [tag("p", lead, class_="lead"), rows(head, lines, "What is known")]


def _against_raw(results: dict[str, Any]) -> list[Markup]:
    lines = [
        [
            _label(results, method),
            _points(found["closed_book"]),
            found["closed_book"]["mark"],
            _points(found["open_book"]),
            found["open_book"]["mark"],
        ]
        for method, found in results["against_raw"].items()
    ]
    head = ["", "Closed book, points", "", "Open book, points", ""]
    lead = "Differences on the same questions, paired, with 95% intervals over documents."
    return [tag("p", lead, class_="lead"), rows(head, lines, "Against raw")] if lines else []


def _forgetting(results: dict[str, Any]) -> list[Markup]:
    lines = []
    has_facts = "general_facts" in results["before"]
    for method, found in results["against_before"].items():
        both = found["new_without_loss"]
        rise = wording.DASH
        if both:
            low, high = both["perplexity_rise"]["interval"]
            value = both["perplexity_rise"]["value"]
            rise = wording.signed(f"{100 * value:+.2f}% [{100 * low:+.2f}, {100 * high:+.2f}]")
        facts = [_points(found["general_facts"])] if has_facts else []
        holds = wording.DASH if not both else "yes" if both["holds"] else "no"
        lines.append([_label(results, method), _points(found["closed_book"]), rise, *facts, holds])
    head = ["", "Accuracy gained, points", "Perplexity of general text",
            *(["General facts, points"] if has_facts else []), "Gained without loss"]  # fmt: skip
    lead = (
        "Against the model before. It is new knowledge without loss of the old where accuracy has "
        "risen and perplexity has not, by their intervals."
    )
    return [tag("p", lead, class_="lead"), rows(head, lines, "Forgetting")] if lines else []


def _laws(results: dict[str, Any]) -> list[Markup]:
    lines = []
    for method, found in results["scaling"].items():
        for law in found["laws"].values():
            numbers = ", ".join(
                f"{name} = {e['value']:.3g} [{e['low']:.3g}, {e['high']:.3g}]"
                for name, e in law["parameters"].items()
            )
            lines.append([_label(results, method), law["law"], numbers, f"{law['rmse']:.2f}"])
    head = ["", "Law", "Percent, of millions of tokens", "Rms, points"]
    return [rows(head, lines, "Laws", texts=3)] if lines else []


def _samples(results: dict[str, Any]) -> list[Markup]:
    made = []
    for sample in results["samples"]:
        name = named(results, sample["method"]) if sample["method"] else "The document"
        columns = [
            tag("div", tag("p", text, dir="auto"), class_="sample") for text in sample["texts"]
        ]
        caption = tag("h3", f"{name}: {sample['title']}")
        made.append(tag("div", caption, tag("div", columns, class_="samples")))
    return made


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("RESULTS_JSON_OR_WORKDIR",))
