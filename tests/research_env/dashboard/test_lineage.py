"""The tree of ideas, whatever the bank says about parents."""

from hypothesis import given
from hypothesis import strategies as st

from research_env.dashboard.lineage import MOST, layout, tree
from research_env.dashboard.snapshot import Row, Snapshot

KINDS = st.sampled_from(["fresh", "exploit", "explore"])
IDEAS = st.lists(
    st.tuples(
        st.lists(st.integers(-3, 80), max_size=3),
        st.one_of(st.none(), st.floats(-5, 5)),
        KINDS,
        st.booleans(),
    ),
    max_size=60,
)


def bank(ideas, maximize=True, baseline=True):
    rows = [Row(0, "b", "ok", 0.0, 0, 0, 0, "", "baseline", "", (), 0, 0, False, "")]
    for i, (parents, score, kind, promoted) in enumerate(ideas, 1):
        state = "crashed" if score is None else "ok"
        rows.append(rows[0]._replace(id=i, parents=tuple(parents), score=score, kind=kind,
                                     promoted=promoted, state=state))  # fmt: skip
    meta = {"direction": "maximize" if maximize else "minimize"}
    return Snapshot(rows if baseline else rows[1:], [], meta, 0.0, None)


@given(ideas=IDEAS, maximize=st.booleans(), baseline=st.booleans())
def test_every_line_goes_down_from_a_parent_to_its_child(ideas, maximize, baseline):
    snapshot = bank(ideas, maximize, baseline)
    nodes = layout(snapshot)
    ids = [node.row.id for node in nodes]
    assert len(set(ids)) == len(ids)
    place = {id: i for i, id in enumerate(ids)}
    lanes: dict[int, bool] = {}  # in which a line comes from above
    for i, node in enumerate(nodes):
        assert set(node.through) <= {lane for lane, open_ in lanes.items() if open_}
        if node.from_lane >= 0:
            assert lanes.get(node.from_lane), "a line from nowhere"
            parent = next((p for p in node.row.parents if p in place and p < node.row.id), 0)
            if node.row.kind != "explore":
                assert place.get(parent, -1) < i
        if node.lane not in node.through:
            lanes[node.lane] = node.down
    best = snapshot.best()
    if best is not None:
        assert best.id in place and nodes[place[best.id]].best
    tree(snapshot, 3)


def test_the_line_to_the_best_runs_straight_down_on_the_left():
    ideas = [([], 1.0, "fresh", False), ([], 2.0, "fresh", False), ([1], 5.0, "exploit", False),
             ([2], 2.5, "exploit", False), ([3], 9.0, "exploit", False)]  # fmt: skip
    nodes = layout(bank(ideas))
    assert [node.row.id for node in nodes if node.best] == [0, 1, 3, 5]
    assert {node.lane for node in nodes if node.best} == {0}
    assert [node.row.id for node in nodes] == [0, 2, 4, 1, 3, 5]


def test_ideas_that_were_only_shown_to_an_author_are_no_parents():
    shown = [([], 1.0, "fresh", False), ([1], 2.0, "explore", False)]
    nodes = layout(bank(shown))
    assert {node.row.id: node.lane for node in nodes}[1] == 1  # beside, not above


def test_a_line_of_thousands_is_cut_at_its_far_end():
    ideas = [([i], float(i), "exploit", False) for i in range(5000)]
    nodes = layout(bank(ideas))
    assert len(nodes) == MOST and nodes[-1].row.id == 5000
