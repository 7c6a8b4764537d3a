"""The table of the paper's quality figures, and ours beside them, in percent."""

from collections.abc import Mapping
from typing import Any

from sbp_jax.evaluation.markdown import table

PAPER_COLUMNS = ("paper 200B", "paper 1T 3B", "paper 1T 6B", "paper real")
PAPER: dict[str, tuple[float | None, ...]] = {  # arXiv 2509.15248
    "repetition": (4.3, 3.9, 2.6, 1.8),
    "duplicate": (0.8, 0.8, 0.3, 0.7),
    "non_factual": (15.1, 8.7, 6.5, 1.8),
    "pair_irrelevance": (25.6, 7.8, 6.0, None),
    "pair_copying": (0.1, 0.9, 0.3, None),
}
# Label, and where the figure is; "" begins a group that the paper has not.
ROWS = (
    ("Repetition", "repetition"),
    ("Duplicate@{count}", "duplicate"),
    ("Non-factual, judged", "judged.non_factual"),
    ("Non-factual, exact", "exact.non_factual"),
    ("Pair-irrelevance, judged", "judged.pair_irrelevance"),
    ("Pair-irrelevance, exact", "exact.pair_irrelevance"),
    ("Pair-copying", "pair_copying"),
    ("Copying of any document", "corpus_copying"),
    ("Largest overlap with a document", "corpus_overlap"),
    ("Facts right", "exact.fact_accuracy"),
    ("Malformed", "exact.malformed"),
    ("Unparsed sentences", "exact.unparsed_sentences"),
    ("New words", "novelty_1"),
    ("New 2-grams", "novelty_2"),
    ("New 3-grams", "novelty_3"),
    ("New 4-grams", "novelty_4"),
    ("New 8-grams", "novelty_8"),
)
LENGTHS = (("Words", "words"), ("Tokens", "tokens"))


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a metric: its label, the figures of synthetic and real documents, the paper's; those
    of no document of ours are left out.
    """
    found = []
    for label, where in (*ROWS, *LENGTHS):
        figures = {name: _at(record[name], where) for name in ("synthetic", "real")}
        paper = PAPER.get(where.split(".")[-1])
        if not any(f and f["value"] is not None for f in figures.values()):
            continue
        first = figures["synthetic"] or figures["real"] or {}
        found.append(
            {
                "metric": where,
                "label": label.format(count=_short(first["documents"])),
                "percent": (label, where) in ROWS,
                **figures,
                "paper": dict(zip(PAPER_COLUMNS, paper, strict=True)) if paper else None,
            }
        )
    return found


def markdown(record: Mapping[str, Any]) -> str:
    lines = [["percent", "synthetic", "real", *PAPER_COLUMNS]]
    for row in rows(record):
        cells = [_cell(row[name], row["percent"]) for name in ("synthetic", "real")]
        paper = (row["paper"] or dict.fromkeys(PAPER_COLUMNS)).values()
        lines.append([row["label"], *cells, *("–" if x is None else f"{x:.1f}" for x in paper)])
    text = table(lines) + (
        f"\n{record['synthetic']['documents']:,} synthetic and {record['real']['documents']:,} "
        "real documents; ± is one standard error; words and tokens are means and no percentages.\n"
    )
    return text + _of_judge(record["judge"])


def _of_judge(judge: Mapping[str, Any] | None) -> str:
    if not judge:
        return ""
    lines = [["judge's question", "known answers", "right", "good called bad", "bad called good"]]
    for question, known in judge["calibration"].items():
        rates = (known[k] for k in ("accuracy", "false_positive_rate", "false_negative_rate"))
        shown = ("–" if rate is None else f"{100 * rate:.1f}" for rate in rates)
        lines.append([question, f"{known['questions']:,} + {known['unclear']:,} unclear", *shown])
    return f"\nJudge: {judge['engine']}, {judge['model']}\n\n{table(lines)}"


def _at(figures: Mapping[str, Any], where: str) -> Any:
    found: Any = figures
    for name in where.split("."):
        found = (found or {}).get(name)
    return found


def _cell(figure: Mapping[str, Any] | None, percent: bool) -> str:
    if not figure or figure["value"] is None:
        return "–"
    scale, error = 100 if percent else 1, figure["stderr"]
    text = f"{scale * figure['value']:.1f}"
    return text if error is None else f"{text} ± {scale * error:.1f}"


def _short(count: int) -> str:
    for size, letter in ((1_000_000, "M"), (1_000, "K")):
        if count >= size and count % size == 0:
            return f"{count // size}{letter}"
    return f"{count:,}"
