"""The report's sections: results in, markup out, nothing where there is nothing to show."""

import json
from collections.abc import Sequence
from typing import Any

from sbp_jax.reporting import wording
from sbp_jax.reporting.charts import chart
from sbp_jax.reporting.figures import (
    Bars,
    Figure,
    Intervals,
    Lines,
    arm_style,
    arms,
    dicts,
    get,
    numbers,
    settings,
    table,
)
from sbp_jax.reporting.markup import Child, Markup, tag
from sbp_jax.reporting.picture import picture
from sbp_jax.reporting.wording import DASH, deviation, mean, number, percent


def page(results: dict[str, Any], figures: dict[str, Figure]) -> Markup:
    def drawn(*names: str) -> list[Markup]:
        return [charted(figures[name]) for name in names if name in figures]

    costs = drawn("flops", "wall_time")
    sections = [
        section("The loop", picture(results)),
        section("Arms", _arms(results)),
        section(
            "How much of the gap is recovered",
            drawn("gap_recovered"),
            "(baseline − SBP) / (baseline − oracle), of losses on held-out documents. "
            "Intervals are 95%, from resampled seeds and documents. A control that "
            "recovers as much as SBP would say that pairing is not what helps.",
        ),
        section("Over training", drawn("losses")),
        section("The synthesizer", drawn("synthesizer"), _synthesizer(results)),
        section("Quality of the synthetic documents", _quality(results)),
        section("What the filters took", drawn("pairing", "synthesis")),
        section("Samples", _samples(results)),
        section("Rounds", [*drawn("rounds"), _rounds(results)]),
        section("Sweep", [*drawn("sweep"), _sweep(results)]),
        section("What was read", drawn("consumed"), "Counted from the data actually consumed."),
        section(
            "What it cost",
            costs,
            "Means over seeds. A stage that several arms stand on is with the first of them. The "
            "paper's comparison matches training tokens; here is what else is spent.",
        ),
        section("Config", config(results)),
    ]
    return tag("main", header(results), headline(results), sections)


def section(title: str, content: Child, lead: str = "") -> Markup | None:
    parts = content if isinstance(content, list) else [content]
    if not any(parts):
        return None
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else None, parts)


def header(results: dict[str, Any]) -> Markup:
    seeds = max((len(runs) for runs in arms(results).values()), default=0)
    facts = [
        str(results.get("date") or ""),
        str(get(results, "corpus", "name") or ""),
        f"{seeds} seed{'s' if seeds > 1 else ''}" if seeds else "",
        str(results.get("hardware") or ""),
    ]
    return tag(
        "header",
        tag("h1", title(results)),
        tag("p", " · ".join(fact for fact in facts if fact), class_="facts"),
    )


def title(results: dict[str, Any]) -> str:
    return str(results.get("title") or "Synthetic Bootstrapped Pretraining")


def headline(results: dict[str, Any]) -> Markup | None:
    """The one number, and in words what it says, also when that is little."""
    losses = {name: mean(numbers(runs, "held_out_loss")) for name, runs in arms(results).items()}
    baseline, oracle, sbp = (losses.get(name) for name in ("baseline", "oracle", "sbp"))
    found = table(results.get("gap_recovered"))
    value = number(found.get("value"))
    if baseline is not None and oracle is not None and oracle >= baseline:
        return big(
            DASH,
            "There is no gap to recover: the oracle, with fresh documents, is no better than "
            f"repetition ({wording.loss(oracle)} against {wording.loss(baseline)} nats a token).",
        )
    if value is not None:
        said = "of what repetition loses to an oracle with fresh documents is won back by SBP. "
        return big(percent(value), said + verdict(found), *_verdicts(results, found))
    if baseline is not None and sbp is not None:
        better = "lower" if sbp < baseline else "higher"
        return big(
            wording.figure(abs(baseline - sbp)),
            f"nats a token is what SBP's held-out loss is {better} than that of repetition. "
            "Without an oracle there is no gap to measure it by, and no interval.",
        )
    return None


def big(number_: str, said: str, *more: Markup) -> Markup:
    return tag(
        "div",
        tag("p", number_, class_="big"),
        tag("div", tag("p", said, class_="said"), *more),
        class_="headline",
    )


def _verdicts(results: dict[str, Any], found: dict[str, Any]) -> list[Markup]:
    against = [
        ("Against tuned repetition", found.get("tuned_baseline")),
        ("Against repetition with all of SBP's FLOPs", found.get("longer_baseline")),
        ("With all three tuned", found.get("tuned")),
    ]
    items = [
        tag("li", tag("b", f"{label}: {percent(number(get(share, 'value')))}. "), verdict(share))
        for label, share in against
        if number(get(share, "value")) is not None
    ]
    seeds = len(arms(results).get("sbp", []))
    one = "One seed: the intervals are over documents and do not know what another seed would give."
    return [tag("ul", items), *([tag("p", one, class_="caveat")] if seeds == 1 else [])]


def verdict(share: Any) -> str:
    """Whether the interval of a recovered fraction excludes zero."""
    low, high = number(get(share, "low")), number(get(share, "high"))
    if low is None or high is None:
        return "Without an interval, this may be chance."
    said = f"The 95% interval, {wording.interval(low, high)},"
    if low > 0:
        return f"{said} excludes zero: SBP is better."
    if high < 0:
        return f"{said} excludes zero on the wrong side: SBP is worse."
    return f"{said} includes zero: no difference is shown."


def rows(
    head: Sequence[str], lines: Sequence[Sequence[Child]], label: str, texts: int = 1
) -> Markup:
    """A table in a box of its own, which scrolls where the page may not; the first `texts` columns
    are words, the others numbers.
    """
    cells = [
        tag(
            "tr",
            [
                tag("th", cell, scope="row") if i == 0 else
                tag("td", cell, class_=None if i < texts else "number")
                for i, cell in enumerate(line)
            ],
        )
        for line in lines
    ]  # fmt: skip
    top = [tag("th", c, scope="col", class_=None if i < texts else "number")
           for i, c in enumerate(head)]  # fmt: skip
    made = tag("table", tag("thead", tag("tr", top)) if any(head) else None, tag("tbody", cells))
    return tag("div", made, class_="scroll", tabindex=0, role="region", aria_label=label)


def charted(figure: Figure) -> Markup:
    """A chart under its title, and its figures for those who want them exactly."""
    if isinstance(figure, Lines):
        head = [figure.x_label, *(line.label for line in figure.lines)]
        known = [dict(zip(line.x, line.y, strict=True)) for line in figure.lines]
        lines: list[list[str]] = [
            [wording.count(x), *(wording.loss(ys.get(x)) for ys in known)]
            for x in sorted({x for ys in known for x in ys})
        ]
    elif isinstance(figure, Intervals):
        head = ["", "value", "low", "high"]
        lines = [
            [row.label, *(percent(x, 1) for x in (row.value, row.low, row.high))]
            for row in figure.rows
        ]
    else:
        head, lines = _bar_figures(figure)
    figures = tag("details", tag("summary", "Figures"), rows(head, lines, figure.title))
    return tag("div", tag("h3", figure.title), chart(figure), figures, class_="charted")


def _bar_figures(figure: Bars) -> tuple[list[str], list[list[str]]]:
    parts = list(dict.fromkeys(part.label for _, row, _ in figure.rows for part in row))
    if all(len(row) == 1 for _, row, _ in figure.rows) and len(parts) == len(figure.rows):
        return ["", "count"], [[label, end] for label, _, end in figure.rows]
    lines = []
    for label, row, end in figure.rows:
        texts = {part.label: part.text for part in row}
        lines.append([label, *(texts.get(part, DASH) for part in parts), end])
    if not any(line[-1] for line in lines):
        return ["", *parts], [line[:-1] for line in lines]
    return ["", *parts, "together"], lines


def _arms(results: dict[str, Any]) -> list[Markup | None]:
    found = arms(results)
    if not found:
        return []
    base = mean(numbers(found.get("baseline", []), "total_flops"))
    facts = any(numbers(runs, "fact_accuracy", "value") for runs in found.values())
    several = any(len(runs) > 1 for runs in found.values())
    head = ["Arm", "Held-out loss", *(["Facts known"] if facts else []), "Tokens",
            "Training FLOPs", "All FLOPs", "", "Time"]  # fmt: skip
    lines: list[list[Child]] = []
    for name, runs in found.items():
        losses = numbers(runs, "held_out_loss")
        spread = deviation(losses) if len(losses) > 1 else mean(numbers(runs, "stderr"))
        known = numbers(runs, "fact_accuracy", "value")
        error = (
            deviation(known) if len(known) > 1 else mean(numbers(runs, "fact_accuracy", "stderr"))
        )
        total = mean(numbers(runs, "total_flops"))
        chosen = dict.fromkeys(settings(run.get("settings")) for run in runs)
        what = "; ".join(text for text in chosen if text) or wording.ARMS.get(name, ("", ""))[1]
        key = tag("i", class_="swatch", style=f"background:var(--c{arm_style(name)})")
        label = [
            tag("span", key, wording.arm(name), class_="arm"),
            tag("small", what) if what else None,
        ]
        lines.append([
            label,
            wording.plus_minus(mean(losses), spread),
            *([wording.plus_minus(mean(known), error, lambda x: percent(x, 1))] if facts else []),
            wording.count(mean(numbers(runs, "tokens"))),
            wording.power(mean(numbers(runs, "train_flops"))),
            wording.power(total),
            f"× {total / base:.2f}" if total is not None and base else DASH,
            wording.duration(mean(numbers(runs, "wall_s"))),
        ])  # fmt: skip
    spread_of = (
        "standard deviation over the seeds" if several else "standard error over the documents"
    )
    lead = (
        f"Nats a token on held-out documents, which no choice was made by; ± is the {spread_of}. "
        "All FLOPs are those of training and of what is done for it (pairing, tuning, synthesis, a "
        "grid; not the checkpoint that is tuned, which is repetition's or the round's before), and "
        "beside them how many times repetition's they are."
    )
    return [tag("p", lead, class_="lead"), rows(head, lines, "Arms")]


def _synthesizer(results: dict[str, Any]) -> str:
    seeds = dicts(results.get("synthesizer"))
    own, other = (mean(numbers(seeds, name)) for name in ("pair_loss", "shuffled_pair_loss"))
    if own is None or other is None:
        return ""
    if other <= own:
        return (
            f"It ignores d1: after another document's, the loss on d2 is {wording.loss(other)}, no "
            f"higher than {wording.loss(own)} after its own."
        )
    return (
        f"It reads d1: the loss on d2 is {wording.loss(own)} after its own d1 and "
        f"{wording.loss(other)} after another's, so d1 is worth {wording.loss(other - own)} nats a "
        "token."
    )


def _quality(results: dict[str, Any]) -> list[Markup | None]:
    metrics = dicts(get(results, "quality", "table"))
    if not metrics:
        return []
    papers = dict.fromkeys(name for metric in metrics for name in table(metric.get("paper")))
    theirs = [name if name.startswith("paper") else f"paper {name}" for name in papers]
    lines = [
        [
            str(metric.get("label") or wording.words(str(metric.get("metric", "")))),
            *(_measured(metric.get(name), metric.get("percent")) for name in ("synthetic", "real")),
            *(_one_decimal(number(table(metric.get("paper")).get(name))) for name in papers),
        ]
        for metric in metrics
    ]
    lead = (
        "Percent of documents, or of what the row names, and for lengths the mean; ± is one "
        "standard error. The paper's figures are of other data and another judge."
    )
    return [
        tag("p", lead, class_="lead"),
        rows(["Metric", "synthetic", "real", *theirs], lines, "Quality"),
        *_judge(table(get(results, "quality", "judge"))),
    ]


def _measured(value: Any, in_percent: Any = False) -> str:
    """A figure with its error, or one without, or a text."""
    if isinstance(value, str):
        return value
    whole = number(get(value, "value")) if isinstance(value, dict) else number(value)
    error = number(get(value, "stderr"))
    if not in_percent:
        return wording.plus_minus(whole, error, wording.figure)
    return wording.plus_minus(whole, error, lambda x: _one_decimal(None if x is None else 100 * x))


def _one_decimal(value: float | None) -> str:
    return wording.DASH if value is None else wording.signed(f"{value:.1f}")


def _judge(judge: dict[str, Any]) -> list[Markup | None]:
    """Who it was, and how often it was right where the answer is known."""
    names = " · ".join(str(judge[name]) for name in ("engine", "model") if judge.get(name))
    rates = ("accuracy", "false_positive_rate", "false_negative_rate")
    lines = [
        [
            wording.words(question),
            wording.count(number(known.get("questions"))),
            *(percent(number(known.get(rate)), 1) for rate in rates),
        ]
        for question, known in table(judge.get("calibration")).items()
        if isinstance(known, dict)
    ]
    head = ["Judge's question", "known answers", "right", "good called bad", "bad called good"]
    return [
        tag("p", f"Judge: {names}", class_="caveat") if names else None,
        rows(head, lines, "Calibration of the judge") if lines else None,
    ]


def _samples(results: dict[str, Any]) -> list[Markup]:
    made = []
    for sample in dicts(results.get("samples")):
        d2 = sample.get("d2")
        texts = [("Real document, d1", sample.get("d1"))]
        texts += [
            (f"Synthesis {i}, d2", text)
            for i, text in enumerate(d2 if isinstance(d2, list) else [d2], 1)
        ]
        columns = [
            tag("div", tag("h4", label), tag("p", text, dir="auto"), class_="sample")
            for label, text in texts
            if isinstance(text, str)
        ]
        concept = sample.get("concept")
        caption = tag("h3", f"Concept: {concept}") if concept else None
        made.append(tag("div", caption, tag("div", columns, class_="samples")))
    return made


def _rounds(results: dict[str, Any]) -> Markup | None:
    found = dicts(results.get("rounds"))
    if len(found) < 2:
        return None
    metrics = dict.fromkeys(name for entry in found for name in table(entry.get("quality")))
    lines = [
        [
            str(entry.get("round", "")),
            _losses(entry.get("held_out_loss")),
            _share(entry.get("gap_recovered")),
            *(_measured(table(entry.get("quality")).get(name)) for name in metrics),
        ]
        for entry in found
    ]
    head = ["Round", "Held-out loss", "Gap recovered", *map(wording.words, metrics)]
    return rows(head, lines, "Rounds")


def _sweep(results: dict[str, Any]) -> Markup | None:
    found = dicts(results.get("sweep"))
    if not found:
        return None
    names = list(dict.fromkeys(name for entry in found for name in table(entry.get("settings"))))
    lines = [
        [
            *(str(table(entry.get("settings")).get(name, DASH)) for name in names),
            _losses(entry.get("held_out_loss")),
            _share(entry.get("gap_recovered")),
        ]
        for entry in found
    ]
    head = [wording.words(name.split(".")[-1]) for name in names]
    return rows([*head, "Held-out loss", "Gap recovered"], lines, "Sweep", max(1, len(names)))


def _losses(value: Any) -> str:
    values = _finite(value)
    return wording.plus_minus(mean(values), deviation(values))


def _finite(value: Any) -> list[float]:
    found = (number(x) for x in (value if isinstance(value, list) else [value]))
    return [x for x in found if x is not None]


def _share(value: Any) -> str:
    whole = number(get(value, "value"))
    low, high = number(get(value, "low")), number(get(value, "high"))
    return percent(whole) if low is None or high is None else (
        f"{percent(whole)} ({wording.interval(low, high)})"
    )  # fmt: skip


def config(results: dict[str, Any]) -> list[Markup]:
    made = []
    for name, value in (("Resolved config", "config"), ("Versions", "versions")):
        if content := results.get(value):
            written = content if isinstance(content, str) else json.dumps(content, indent=2)
            block = tag("pre", tag("code", written), tabindex=0)
            made.append(tag("details", tag("summary", name), block))
    return made
