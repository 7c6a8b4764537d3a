"""The page as markup: what it says, that no text breaks it, and what may run in it."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib import util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research_env.dashboard import page, report
from research_env.dashboard.snapshot import Row, Snapshot
from research_env.outcome import State
from sbp_jax.errors import UserError

_spec = util.spec_from_file_location("searches", Path(__file__).with_name("conftest.py"))
assert _spec and _spec.loader
searches = util.module_from_spec(_spec)
_spec.loader.exec_module(searches)


class Reader(HTMLParser):
    """Elements with their attributes, and what lies in scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.names, self.open, self.inside, self.words = [], set(), [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.names |= {name for name, _ in attributes}
        if tag not in ("meta", "link", "input"):
            self.open.append(dict(attributes).get("id") or tag)

    def handle_endtag(self, tag):
        assert self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style", "data", "details"):
            self.inside[self.open[-1]] = self.inside.get(self.open[-1], "") + data
        else:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read(workdir):
    return Reader(report.write(workdir).read_text())


def test_the_report_is_one_file_with_everything_in_it_and_its_figures_beside_it(search):
    made = search()
    searches.evolve(made, 40)
    written = report.write(made.workdir)
    assert written == made.workdir / "report" / "index.html"
    assert {p.name for p in written.parent.iterdir()} == {"index.html", "results.json"}
    text = written.read_text()
    assert not re.search(r"(src|href)=.?(https?:)?//", text) and "url(" not in text
    found = Reader(text)
    best = made.bank.best(1)[0]
    assert f"#{best.id} {best.title}" in found.text and "Best so far" in found.text
    data = json.loads(found.inside["data"])
    assert len(data["rows"]) == 41
    details = json.loads(found.inside["details"])
    assert details[str(best.id)]["diff"] == best.diff
    assert details[str(best.id)]["runs"][0]["text"].startswith("step 0 loss")
    results = json.loads((written.parent / "results.json").read_text())
    assert results["best"] == best.score and sum(results["states"].values()) == 40


def test_only_the_pages_own_script_and_style_may_run(search):
    made = search()
    made.baseline(1.0)
    found = read(made.workdir)
    policy = dict(part.split(" ", 1) for part in page.policy(page.FILE).split("; ") if " " in part)
    for kind, inside in (("script-src", "script"), ("style-src", "style")):
        digest = hashlib.sha256(found.inside[inside].encode()).digest()
        assert policy[kind] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert policy["default-src"] == "'none'" and "connect-src" not in policy
    assert "style" not in found.names and not {n for n in found.names if n.startswith("on")}


def test_an_empty_bank_makes_a_page(search):
    made = search()
    assert "No idea has a score yet." in read(made.workdir).text


def test_without_a_bank_there_is_no_report(tmp_path):
    with pytest.raises(UserError, match="research_env.search makes it"):
        report.write(tmp_path)


def test_failures_only_and_scores_alike_make_a_page(search):
    made = search()
    made.baseline(1.0, 1.0)
    for state in searches.FAILURES:
        made.idea(state, searches.failed(state))
    assert "No idea has a score yet." in read(made.workdir).text
    made.idea("same", searches.ok(1.0))
    assert "Nothing is better than the baseline yet." in read(made.workdir).text


def test_a_gain_that_luck_would_reach_is_called_that(search):
    made = search(noise=0.1, direction="maximize", metric="accuracy")
    made.baseline(1.0, 1.1, 0.9)
    for i in range(30):
        made.idea(f"nothing {i}", searches.ok(1.0 + 0.005 * i))
    assert "No improvement is shown." in read(made.workdir).text
    made.idea("something", searches.ok(2.0))
    assert "fresh seeds and the other splits decide" in read(made.workdir).text


def decided(made, promoted):
    best = made.bank.best(1)[0].id
    made.bank.promote(best)
    for split, seeds in (("selection", (5, 6, 7)), ("final", (8,))):
        for seed in seeds:
            made.run(best, searches.ok(3.11 + seed / 1000), split, seed)
            made.run(0, searches.ok(3.25), split, seed)
    said = {"said": "what the referee says", "significant": promoted, "tried": 1, "p": 0.003}
    made.bank.set("verdict", said | {"idea": best if promoted else None})
    return best


def test_a_promotion_is_told_by_its_scores_on_the_final_split(search):
    made = search()
    made.baseline(3.25, 3.26)
    made.idea("better", searches.ok(3.1))
    decided(made, promoted=True)
    said = read(made.workdir).text
    assert "3.1180 loss on the final split" in said and "has ended" in said
    assert "0.1320 better than the baseline's 3.2500" in said
    assert "What the referee says." in said
    assert "3.1160 ± 0.0006 (3)" in said


def test_without_a_promotion_the_best_remains_one_of_the_search(search):
    made = search()
    made.baseline(3.25, 3.26)
    made.idea("better", searches.ok(3.1))
    decided(made, promoted=False)
    said = read(made.workdir).text
    assert "On the split that the search itself looks at. The referee: what the" in said


def test_no_text_of_a_bank_is_markup(hostile, search):
    harmless = search("harmless")
    harmless.baseline(3.2, 3.21)
    found = read(hostile.workdir)
    assert found.tags.count("script") == 3
    drawn = "a b bdi button circle figcaption figure i li line ol p path polygon polyline rect"
    drawn += " section svg table tbody td text th thead title tr ul"
    assert set(found.tags) <= set(read(harmless.workdir).tags) | set(drawn.split())
    assert not {name for name in found.names if name.startswith("on")} and "src" not in found.names
    data = json.loads(found.inside["data"])
    assert data["rows"][1][1] == searches.HOSTILE[0]
    details = json.loads(found.inside["details"])
    assert details["1"]["diff"].count(searches.HOSTILE[0]) == 4


TEXT = st.one_of(st.sampled_from(searches.HOSTILE), st.text(max_size=40))
ROW = Row(0, "b", "ok", 1.0, 0, 0, 0, "s", "baseline", "a", (), 1.0, 2.0, False, "")


@settings(max_examples=80, deadline=None)
@given(TEXT, TEXT, TEXT, TEXT)
def test_a_page_with_any_texts_has_the_elements_of_one_with_others(title, state, kind, env):
    def made(title, state, kind, env):
        rows = [
            ROW,
            ROW._replace(id=1, title=title, kind=kind, author=env, score=1.1, promoted=True),
        ]
        rows.append(ROW._replace(id=2, kind="exploit", state=state, score=None, parents=(1,)))
        meta = {"env": env, "metric": env, "size": title, "noise": 0.01, "verdict": {"said": env}}
        return Reader(page.document(Snapshot(rows, [], meta, 9.0, None), page.FILE, {}))

    plain = made("h", "crashed", "fresh", "e")
    found = made(title, state, kind, env or "e")
    if state not in ("crashed", "ok", "running", "queued") and kind != "baseline":
        assert found.tags == plain.tags and found.names == plain.names
    assert json.loads(found.inside["data"])["rows"][1][1] == title


@pytest.mark.parametrize(
    "meta",
    [
        {"noise": float("inf"), "budget": {"ideas": float("nan"), "cost": -1, "seconds": "x"}},
        {"noise": -1, "baseline": "high", "budget": 3, "verdict": [1], "started": "now"},
        {"noise": 1e-300, "baseline": {"search": 1e99}, "direction": 7, "phase": {"a": 1}},
        {"verdict": {"idea": True, "significant": True, "said": [3]}},
        {"verdict": {"idea": 99, "significant": True}},
    ],
)
def test_facts_that_are_none_are_left_out(search, meta):
    made = search(**meta)
    made.baseline(1.0)
    made.idea("one", searches.ok(1.2))
    data = json.loads(read(made.workdir).inside["data"])
    assert len(data["rows"]) == 2


def test_details_that_do_not_fit_are_left_out_the_best_are_kept(search, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 20_000)
    made = search()
    made.baseline(3.2)
    for i in range(30):
        made.idea(f"idea {i}", searches.ok(3.0 - i / 100), text="x" * 2000)
    details = json.loads(read(made.workdir).inside["details"])
    assert 3 < len(details) < 12 and "30" in details and "1" not in details


def test_a_log_is_a_file_of_its_run_and_nothing_else(search):
    made = search()
    made.baseline(3.2)
    secret = made.workdir / "secret"
    secret.write_text("password")
    for place in ("secret", "../W/secret", "runs/../secret", str(secret), "runs/9/link", "runs/9"):
        number = made.idea(f"at {place}", searches.ok(3.0), log="mine")
        (made.workdir / "runs" / "9").mkdir(exist_ok=True)
        link = made.workdir / "runs" / "9" / "link"
        if not link.is_symlink():
            link.symlink_to(secret)
        run = made.bank.runs(number)[0]
        made.bank.finish(run.id, searches.ok(3.0), place)
    assert made.bank.idea(1).state == State.OK
    assert "password" not in report.write(made.workdir).read_text()
