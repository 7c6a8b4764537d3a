"""The report: what it says of which results, and that no results and no text break it."""

import copy
import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sbp_jax.report import page, write_report
from sbp_jax.reporting.charts import ticks
from sbp_jax.reporting.figures import NAMES, figures
from sbp_jax.reporting.plots import png

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location(
    "realistic_results", Path(__file__).with_name("realistic_results.py")
)
assert _spec and _spec.loader
realistic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(realistic)

VOID = {"meta"}
WHOLE = realistic.results()
# As many sections, fewer arms and points.
SMALL = realistic.results(seeds=1)
for _name in ("tuned_baseline", "tuned_oracle", "tuned_sbp", "unconditional", "longer_baseline"):
    del SMALL["arms"][_name]
for _run in (run for runs in SMALL["arms"].values() for run in runs):
    del _run["validation_losses"][3:]
SMALL["stages"] = [stage for stage in SMALL["stages"] if stage["arm"] in SMALL["arms"]]


class Reader(HTMLParser):
    """Elements, their attributes' names, and the text; refuses what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.values = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self.values += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def text_of(results):
    return Reader(page(results)).text


def changed(*path, to, of=WHOLE):
    results = copy.deepcopy(of)
    *above, last = path
    place = results
    for key in above:
        place = place[key]
    place[last] = to
    return results


def test_the_report_is_one_page_and_a_png_of_each_figure(tmp_path):
    path = write_report(tmp_path, WHOLE)
    assert path == tmp_path / "index.html"
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", *(f"{n}.png" for n in NAMES)}
    for image in tmp_path.glob("*.png"):
        with Image.open(image) as opened:
            opened.load()
            assert min(opened.size) > 200 and len(opened.convert("RGB").getcolors(1 << 24)) > 10
    written = path.read_text()
    read = Reader(written)
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "base"}
    assert not {name for _, names in read.tags for name in names} & {"src", "href", "onclick"}
    assert "http://" not in written and "https://" not in written and "url(" not in written
    for section in (
        "The loop", "Arms", "How much of the gap is recovered", "Over training", "The synthesizer",
        "Quality of the synthetic documents", "What the filters took", "Samples", "Rounds", "Sweep",
        "What was read", "What it cost", "Config",
    ):  # fmt: skip
        assert section in read.texts


def test_other_results_in_the_same_folder_leave_no_figure_of_the_old_ones(tmp_path):
    (tmp_path / "rounds.png").write_bytes(b"old")
    (tmp_path / "mine.png").write_bytes(b"mine")
    write_report(tmp_path, {"pairing": WHOLE["pairing"]})
    assert {p.name for p in tmp_path.iterdir()} == {"index.html", "pairing.png", "mine.png"}


def test_losses_are_means_with_their_deviation_over_the_seeds():
    losses = [run["held_out_loss"] for run in WHOLE["arms"]["sbp"]]
    mean, spread = statistics.mean(losses), statistics.stdev(losses)
    assert f"{mean:.4f} ± {spread:.4f}" in text_of(WHOLE)
    one = realistic.results(seeds=1)
    run = one["arms"]["sbp"][0]
    read = text_of(one)
    assert f"{run['held_out_loss']:.4f} ± {run['stderr']:.4f}" in read
    assert "standard error over the documents" in read and "One seed: " in read
    assert "One seed: " not in text_of(WHOLE)


def test_the_quality_table_is_in_percent_beside_the_papers():
    read = text_of(WHOLE)
    assert "Repetition 2.1 ± 0.1 1.6 ± 0.1 4.3 3.9 2.6 1.8" in read
    assert "Pair-irrelevance, exact 6.3 ± 0.4 – 25.6 7.8 6.0 –" in read
    assert "Pair-copying 0.4 ± 0.0 – 0.1 0.9 0.3 –" in read
    assert "Judge: jax · 9f31c2aa" in read and "Pair irrelevance 400 91.0% 6.0% 12.0%" in read


def test_bands_go_from_the_lowest_to_the_highest_seed():
    line = next(line for line in figures(WHOLE)["losses"].lines if line.label == "SBP")
    seeds = [[p["loss"] for p in run["validation_losses"]] for run in WHOLE["arms"]["sbp"]]
    assert line.low == [min(at) for at in zip(*seeds, strict=True)]
    assert line.high == [max(at) for at in zip(*seeds, strict=True)]
    assert line.y == pytest.approx([statistics.mean(at) for at in zip(*seeds, strict=True)])
    assert not any(line.low for line in figures(realistic.results(seeds=1))["losses"].lines)


@pytest.mark.parametrize(
    "share, words",
    [
        ((0.31, 0.22, 0.4), "31% of what repetition loses to an oracle with fresh documents is won "
         "back by SBP. The 95% interval, 22% to 40%, excludes zero: SBP is better."),
        ((0.05, -0.1, 0.2), "The 95% interval, −10% to 20%, includes zero: no difference is "
         "shown."),
        ((-0.3, -0.5, -0.1), "The 95% interval, −50% to −10%, excludes zero on the wrong side: SBP "
         "is worse."),
        ((0.0, 0.0, 0.2), "includes zero"),
        ((0.31, None, math.nan), "Without an interval"),
    ],
)  # fmt: skip
def test_the_headline_says_whether_the_interval_excludes_zero(share, words):
    value, low, high = share
    found = {
        "value": value,
        "low": low,
        "high": high,
        "tuned_baseline": realistic.share(0.1, -1, 1),
    }
    read = text_of(changed("gap_recovered", to=found))
    assert words in read
    assert "Against tuned repetition: 10%. The 95% interval, −100% to 100%, includes zero" in read


def test_without_an_oracle_there_is_no_fraction():
    results = copy.deepcopy(WHOLE)
    for name in ("oracle", "tuned_oracle"):
        del results["arms"][name]
    results["gap_recovered"] = {}
    read = text_of(results)
    assert "nats a token is what SBP's held-out loss is lower than that of repetition" in read
    assert "gap_recovered" not in figures(results)


def test_an_oracle_no_better_than_repetition_leaves_no_gap():
    results = copy.deepcopy(WHOLE)
    results["arms"]["oracle"] = results["arms"]["baseline"]
    assert "There is no gap to recover" in text_of(results)


def test_a_synthesizer_that_ignores_d1_is_called_so():
    assert "It reads d1" in text_of(WHOLE)
    seeds = [seed | {"shuffled_pair_loss": seed["pair_loss"]} for seed in WHOLE["synthesizer"]]
    assert "It ignores d1" in text_of(changed("synthesizer", to=seeds))


def leaves(value, path=()):
    """Paths of all that lies in nested dicts and lists."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


PLACES = list(leaves(WHOLE))
TEXTS = [path for path in leaves(SMALL) if isinstance(at(SMALL, path), str)]
HOSTILE = st.one_of(
    st.sampled_from([
        "</td></table><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!--", "]]>",
        "&lt;&#60;", "' onload='x", "</title></style><b>", "<svg/onload=x>", "\x00\ud800</p>",
        "{{7*7}}", "$\\frac{1}{", "\u202eabc", "\r\n\r", "javascript:alert(1)", "%s{}", "-->",
    ]),
    st.text(min_size=1, max_size=60),
)  # fmt: skip


def seen(text):
    """As a browser has it: without what no page may hold."""
    return " ".join(
        "".join(
            "\ufffd" if (ord(c) < 32 and c not in "\t\n\r") or 127 <= ord(c) < 160
            or 0xD800 <= ord(c) < 0xE000 or ord(c) in (0xFFFE, 0xFFFF) else c for c in text
        ).split()
    )  # fmt: skip


@settings(max_examples=60)
@given(path=st.sampled_from(TEXTS), text=HOSTILE)
def test_no_text_breaks_the_page(path, text):
    """It has the elements that it has with a harmless text as long, which is there to read."""
    harmless = Reader(page(changed(*path, to="h" * len(text), of=SMALL)))
    hostile = Reader(page(changed(*path, to=text, of=SMALL)))
    assert hostile.tags == harmless.tags
    if path[0] == "samples" and path[2] != "concept":
        assert seen(text) in hostile.text or not seen(text)


@settings(max_examples=40)
@given(name=HOSTILE)
def test_no_name_breaks_the_page(name):
    results = copy.deepcopy(SMALL)
    for place, old in (
        (results["arms"], "random_pairs"),
        (results["gap_recovered"]["controls"], "random_pairs"),
        (results["pairing"]["counts"], "similarity"),
        (results["arms"]["sbp"][0]["consumed"], "real"),
        (results["quality"]["table"][0]["paper"], "paper real"),
        (results["config"]["model"], "d_model"),
    ):
        place[name] = place.pop(old)
    read = Reader(page(results))
    assert not {tag for tag, _ in read.tags} & {"script", "img", "b/", "svg/onload"}
    assert not {n for _, names in read.tags for n in names} & {"onerror", "onload", "src"}


JUNK = [
    None, "text", -1, 0, 1e12, 1e308, -1e308, 10**400, 1e-300, math.nan, math.inf, True, [], {},
    [[]], [{}], {"value": 1},
]  # fmt: skip
PLACED = {"x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "points", "d", "viewbox"}


@pytest.mark.slow
@settings(max_examples=100)
@given(
    changes=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from([*JUNK, "left out"])), max_size=12
    )
)
def test_what_is_missing_or_no_number_is_left_out(changes):
    results = copy.deepcopy(WHOLE)
    for (*above, last), value in changes:
        try:
            place = at(results, above)
            place[last]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took it
        if isinstance(place, dict | list):
            if value == "left out":
                del place[last]
            else:
                place[last] = value
    read = Reader(page(results))
    places = [value for name, value in read.values if name in PLACED]
    assert [place for place in places if re.search("nan|inf|None", place)] == []


@pytest.mark.parametrize("key", [None, *WHOLE])
def test_each_part_alone_makes_a_report(key):
    read = text_of({key: WHOLE[key]} if key else {})
    assert "Made by sbp_jax" in read


@pytest.mark.parametrize("label", ["$\\frac{1}{", "\x00\ud800", "_hidden", "名前", "\n\n"])
def test_names_of_arms_are_no_formulas_in_pngs(label):
    results = {"arms": {label: WHOLE["arms"]["sbp"], "baseline": WHOLE["arms"]["baseline"]}}
    for figure in figures(results).values():
        assert Image.open(BytesIO(png(figure))).size[0] > 200


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), most=st.integers(2, 10))
def test_ticks_lie_in_the_range_at_even_steps(low, span, most):
    found = ticks(low, low + span, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in found)
    steps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * len(steps) if steps else [], rel=1e-3)


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "sbp_jax.report", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_remakes_the_report_of_a_workdir_and_of_a_file(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    results = folder / "results.json"
    results.write_text(json.dumps({"arms": WHOLE["arms"]}))
    for place in (tmp_path, folder, results):
        done = run(place)
        assert (done.returncode, done.stderr.strip()) == (0, str(folder / "index.html"))
        assert (folder / "index.html").read_text() == page({"arms": WHOLE["arms"]})
        (folder / "index.html").unlink()


@pytest.mark.parametrize(
    "name, content, line",
    [
        (".", None, "no report/results.json: sbp_jax.bootstrap writes it; run that first"),
        ("none.json", None, "none.json: cannot read: No such file or directory"),
        ("torn.json", b'{"arms": ', "torn.json: no JSON"),
        ("bytes.json", b"\xff\xfe", "bytes.json: no JSON"),
        ("list.json", b"[]", "list.json: no results of sbp_jax.bootstrap"),
    ],
)
def test_what_holds_no_results_is_refused_in_one_line(name, content, line, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run(tmp_path / name)
    assert done.returncode == 2
    assert line in done.stderr and len(done.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ([name] if content is not None else [])
