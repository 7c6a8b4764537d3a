"""The loop as a picture with counts: in a row on a page, one below the other on a phone."""

from typing import Any, NamedTuple

from sbp_jax.reporting import wording
from sbp_jax.reporting.charts import NARROW, WIDE, svg, text
from sbp_jax.reporting.figures import arms, dicts, get, numbers
from sbp_jax.reporting.markup import Markup, markup, tag
from sbp_jax.reporting.wording import count, mean, number

BOX = 152


class Node(NamedTuple):
    title: str
    amount: str
    notes: list[str]


class Arc(NamedTuple):
    start: int
    end: int
    label: str
    above: bool  # or below; on a phone to the left, or to the right
    dashed: bool = False


def picture(results: dict[str, Any]) -> Markup | None:
    nodes = _nodes(results)
    if sum(node.amount != wording.DASH for node in nodes) < 3:
        return None
    arcs = _arcs(results)
    said = "The loop: " + ", then ".join(
        f"{node.title} {node.amount} {' '.join(node.notes)}" for node in nodes
    )
    return tag("figure", _wide(nodes, arcs, said), _narrow(nodes, arcs, said), class_="chart")


def _nodes(results: dict[str, Any]) -> list[Node]:
    def tokens(value: Any) -> list[str]:
        return [] if number(value) is None else [f"{count(number(value))} tokens"]

    synthesizer, sbp = dicts(results.get("synthesizer")), arms(results).get("sbp", [])
    pair_loss = mean(numbers(synthesizer, "pair_loss"))
    held_out = mean(numbers(sbp, "held_out_loss"))
    median = number(get(results, "pairing", "scores", "median"))
    trained = mean(numbers(sbp, "tokens"))
    return [
        Node(
            "Documents",
            count(number(get(results, "corpus", "documents"))),
            tokens(get(results, "corpus", "tokens")),
        ),
        Node(
            "Pairs",
            count(number(get(results, "pairing", "pairs"))),
            [] if median is None else [f"median score {median:.2f}"],
        ),
        Node("Synthesizer", "p(d2 | d1)", [] if pair_loss is None else [f"loss {pair_loss:.3f}"]),
        Node(
            "Synthetic documents",
            count(number(get(results, "synthesis", "documents"))),
            tokens(get(results, "synthesis", "tokens")),
        ),
        Node(
            "Pretraining",
            count(trained),
            ["tokens, from scratch", *([] if held_out is None else [f"loss {held_out:.3f}"])],
        ),
    ]


def _arcs(results: dict[str, Any]) -> list[Arc]:
    passes = mean(numbers(arms(results).get("sbp", []), "consumed", "real", "passes"))
    again = "the documents themselves" + ("" if passes is None else f", {passes:.1f} passes")
    found = [
        Arc(0, 2, "pretrained on the documents alone: its start", True),
        Arc(0, 4, again, False),
    ]
    if len(rounds := dicts(results.get("rounds"))) > 1:
        found.append(Arc(4, 2, f"{len(rounds)} rounds", True, dashed=True))
    return found


def _arrow(path: str, tip: tuple[float, float], towards: str, dashed: bool = False) -> list[Markup]:
    x, y = tip
    sides = {
        "right": [(-7, -4), (-7, 4)],
        "left": [(7, -4), (7, 4)],
        "down": [(-4, -7), (4, -7)],
        "up": [(-4, 7), (4, 7)],
    }[towards]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in [(0, 0), *sides])
    return [
        tag("path", d=path, class_="arrow dashed" if dashed else "arrow"),
        tag("polygon", points=points, class_="tip"),
    ]


def _box(node: Node, x: float, y: float, width: float, height: float) -> list[Markup]:
    middle = x + width / 2
    lines = [text(middle, y + 21, node.title, "title", "middle")]
    lines.append(text(middle, y + 46, node.amount, "count", "middle"))
    for i, note in enumerate(node.notes):
        lines.append(text(middle, y + 65 + 16 * i, note, "small", "middle"))
    return [tag("rect", x=x, y=y, width=width, height=height, rx=7, class_="box"), *lines]


def _wide(nodes: list[Node], arcs: list[Arc], said: str) -> Markup:
    gap, top, height = (WIDE - len(nodes) * BOX) / (len(nodes) - 1), 50.0, 92.0
    bottom = top + height
    drawn: list[Markup] = []
    for i, node in enumerate(nodes):
        x = i * (BOX + gap)
        drawn += _box(node, x, top, BOX, height)
        if i:
            tip = (x - 2, top + height / 2)
            drawn += _arrow(f"M{x - gap + 2:.0f} {tip[1]}H{tip[0] - 5:.0f}", tip, "right")
    for arc in arcs:
        # Where two of them meet a box, each has its own place on it.
        a = arc.start * (BOX + gap) + BOX / 2
        b = arc.end * (BOX + gap) + BOX / 2 + (14 if arc.start > arc.end else -14)
        edge, far = (top, top - 28) if arc.above else (bottom, bottom + 28)
        tip = (b, edge - 2 if arc.above else edge + 2)
        turn = 10 if b > a else -10
        path = f"M{a} {edge}V{(far + 10) if arc.above else (far - 10)}Q{a} {far} {a + turn} {far}"
        path += f"H{b - turn}Q{b} {far} {b} {(far + 10) if arc.above else (far - 10)}V{tip[1]}"
        drawn += _arrow(path, tip, "down" if arc.above else "up", arc.dashed)
        drawn.append(text((a + b) / 2, far - 7 if arc.above else far + 17, arc.label, "small",
                          "middle"))  # fmt: skip
    return svg(WIDE, bottom + 52, said, *drawn, class_="wide")


def _narrow(nodes: list[Node], arcs: list[Arc], said: str) -> Markup:
    left, width, height, gap = 62.0, 216.0, 92.0, 30.0
    right = left + width
    drawn: list[Markup] = []
    for i, node in enumerate(nodes):
        y = 2 + i * (height + gap)
        drawn += _box(node, left, y, width, height)
        if i:
            tip = (left + width / 2, y - 2)
            drawn += _arrow(f"M{tip[0]} {y - gap + 2:.0f}V{tip[1] - 5:.0f}", tip, "down")
    for arc in arcs:
        a = 2 + arc.start * (height + gap) + height / 2
        b = 2 + arc.end * (height + gap) + height / 2 + (14 if arc.start > arc.end else -14)
        edge, far = (left, left - 30) if arc.above else (right, right + 30)
        tip = (edge - 2 if arc.above else edge + 2, b)
        turn, side = (10 if b > a else -10), (10 if arc.above else -10)
        path = f"M{edge} {a}H{far + side}Q{far} {a} {far} {a + turn}"
        path += f"V{b - turn}Q{far} {b} {far + side} {b}H{tip[0]}"
        drawn += _arrow(path, tip, "right" if arc.above else "left", arc.dashed)
        x, y = (far - 10 if arc.above else far + 18), (a + b) / 2
        turned = markup(text(x, y, arc.label, "small", "middle"))
        drawn.append(tag("g", turned, transform=f"rotate(-90 {x:.0f} {y:.0f})"))
    return svg(NARROW, 2 + len(nodes) * (height + gap) - gap + 4, said, *drawn, class_="narrow")
