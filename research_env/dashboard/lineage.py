"""Which idea came of which: a tree of the best ideas and all their ancestors, a row for each.

Drawn like a history of commits, which stays readable however deep it goes and on a phone: the line
to the best idea runs straight down on the left, others branch off it. An idea's first parent is its
place; what else it combines is named. Ideas that were only shown to an author are no parents.
"""

from collections import defaultdict
from typing import NamedTuple

from research_env.dashboard.snapshot import OPEN, Row, Snapshot
from research_env.dashboard.wording import score
from research_env.researcher.interface import BASELINE, EXPLORE
from sbp_jax.reporting.markup import Markup, tag

BEST, RUNNING = 40, 6  # that are shown, with their ancestors
MOST = 120  # rows in all
LANE, HEIGHT = 16, 30
LANES = 8  # beyond which branches share the last one


class Node(NamedTuple):
    row: Row
    lane: int
    from_lane: int  # of its parent; -1 at the root
    through: tuple[int, ...]  # lanes of others that pass by
    down: bool  # a line goes on below it
    best: bool  # it leads to the best, or is it
    best_down: bool  # and so does the line below it
    best_lane: int  # of those that pass by, the one to the best; or -1
    hidden: int  # children that are not shown


def tree(snapshot: Snapshot, decimals: int | None) -> Markup | None:
    nodes = layout(snapshot)
    if len(nodes) < 2:
        return None
    widest = max(max(node.lane, *node.through, 0) for node in nodes) + 1
    items = [tag("li", _item(node, widest, decimals)) for node in nodes]
    return tag("ol", items, class_="lineage", tabindex=0, aria_label="Lineage of the best ideas")


def layout(snapshot: Snapshot) -> list[Node]:
    rows = {row.id: row for row in snapshot.rows}
    above = {row.id: _parent(row, rows) for row in snapshot.rows}
    children: dict[int, list[int]] = defaultdict(list)
    for id, parent in above.items():
        if parent is not None:
            children[parent].append(id)
    shown = _shown(snapshot, above)
    worth = _worth(snapshot, above, shown)
    best = snapshot.best()
    to_best = set(_ancestry(best.id, above)) if best else set()
    nodes: list[Node] = []
    roots = [id for id in shown if above[id] not in shown]
    roots.sort(key=lambda id: (worth[id], -id))
    # An idea, its lane, its parent's, the lanes that pass by, and the best's among them. A stack,
    # for lines of ideas may be longer than Python's own.
    todo = [(root, 0, -1, frozenset[int](), -1) for root in roots]
    while todo:
        id, lane, from_lane, passing, best_lane = todo.pop()
        kept = sorted((c for c in children[id] if c in shown), key=lambda c: (worth[c], -c))
        nodes.append(
            Node(rows[id], lane, from_lane, tuple(sorted(passing - {lane})), bool(kept),
                 id in to_best, bool(kept) and kept[-1] in to_best, best_lane,
                 len(children[id]) - len(kept))
        )  # fmt: skip
        if not kept:
            continue
        *others, main = kept  # the most promising goes straight on, and so comes last
        todo.append((main, lane, lane, passing - {lane}, best_lane))
        side = min(lane + 1, LANES - 1)
        for other in others:
            beside = lane if main in to_best else best_lane
            todo.append((other, side, lane, passing | {lane}, beside))
    return nodes


def _parent(row: Row, rows: dict[int, Row]) -> int | None:
    """The baseline is everyone's, at last. Older ones only: no file makes a circle."""
    if row.kind == BASELINE:
        return None
    if row.kind != EXPLORE:
        for parent in row.parents:
            if parent in rows and parent < row.id:
                return parent
    return 0 if 0 in rows and row.id != 0 else None


def _ancestry(id: int | None, above: dict[int, int | None]) -> list[int]:
    found = []
    while id is not None:
        found.append(id)
        id = above[id]
    return found


def _shown(snapshot: Snapshot, above: dict[int, int | None]) -> set[int]:
    sign = -1 if snapshot.maximize else 1
    ran = [row for row in snapshot.ideas if row.score is not None]
    best = sorted(ran, key=lambda row: (not row.promoted, sign * (row.score or 0.0), row.id))
    running = [row for row in snapshot.ideas if row.state in OPEN and row.kind != EXPLORE]
    shown: set[int] = set()
    for row in [*best[:BEST], *running[-RUNNING:]]:
        line = set(_ancestry(row.id, above)[:MOST])
        if shown and len(shown | line) > MOST:
            continue
        shown |= line
    return shown


def _worth(snapshot: Snapshot, above: dict[int, int | None], shown: set[int]) -> dict[int, float]:
    """Of each, the best that came of it."""
    sign = 1 if snapshot.maximize else -1
    own = {row.id: -1e300 if row.score is None else sign * row.score for row in snapshot.rows}
    worth = {id: own[id] for id in shown}
    for id in sorted(shown, reverse=True):  # children have higher numbers
        parent = above[id]
        if parent in worth:
            worth[parent] = max(worth[parent], worth[id])
    return worth


def _item(node: Node, widest: int, decimals: int | None) -> Markup:
    row = node.row
    others = [f"#{parent}" for parent in row.parents[1:4]] if row.kind != EXPLORE else []
    more = [f"with {', '.join(others)}"] if others else []
    ended = row.score is not None
    at_end = score(row.score, decimals) if ended else row.state.replace("_", " ")
    more += [f"{node.hidden:,} more"] if node.hidden else []
    return tag(
        "a",
        _rails(node, widest),
        tag("span", f"#{row.id}", class_="id"),
        tag("span", tag("bdi", row.title or "untitled"), class_="title"),
        tag("span", " · ".join(more), class_="more") if more else None,
        tag("span", at_end, class_="score"),
        href=f"#idea={row.id}",
        class_=f"state-{row.state}" + (" best" if node.best else ""),
    )  # fmt: skip


def _rails(node: Node, widest: int) -> Markup:
    def x(lane: int) -> float:
        return LANE * (min(lane, LANES - 1) + 0.5)

    middle, drawn = HEIGHT / 2, []
    for lane in node.through:
        drawn.append(_rail(f"M{x(lane)} 0V{HEIGHT}", lane == node.best_lane))
    if node.from_lane >= 0:
        a, b = x(node.from_lane), x(node.lane)
        path = f"M{a} 0V{middle}" if a == b else f"M{a} 0C{a} {middle} {a} {middle} {b} {middle}"
        drawn.append(_rail(path, node.best))
    if node.down:
        drawn.append(_rail(f"M{x(node.lane)} {middle}V{HEIGHT}", node.best_down))
    drawn.append(tag("circle", cx=x(node.lane), cy=middle, r=5 if node.row.promoted else 4,
                     class_="dot"))  # fmt: skip
    width = LANE * min(widest, LANES)
    return tag("svg", drawn, viewBox=f"0 0 {width} {HEIGHT}", width=width, height=HEIGHT,
               aria_hidden="true")  # fmt: skip


def _rail(path: str, best: bool) -> Markup:
    return tag("path", d=path, class_="rail best" if best else "rail")
