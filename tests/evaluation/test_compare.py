import html.parser
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation import compare as compare_lib
from sbp_jax.evaluation.compare import compare
from sbp_jax.evaluation.scores import Results, Score, TaskScores


def evaluation(folder, name="", table=None, hashes=None, shots=0, **tasks):
    """Results on disk; a task is values, or a Score, or a dict of metrics."""
    entries = {}
    for task, given in tasks.items():
        metrics = given if isinstance(given, dict) else {"acc": given}
        scores = {
            metric: s if isinstance(s, Score) else Score(np.asarray(s, float), np.ones(len(s)))
            for metric, s in metrics.items()
        }
        count = len(next(iter(scores.values())).values)
        named = hashes or [f"{task}{i}" for i in range(count)]
        entries[task] = TaskScores(named, named, scores, shots).write(folder, task)
    recorded = {"name": name, "tasks": entries, **({"table": table} if table else {})}
    files.write_json(folder / "results.json", recorded)
    return Results.read(folder)


@pytest.fixture
def pair(tmp_path):
    """compare() of two models by their values."""

    def of(a, b, **options):
        first = evaluation(tmp_path / "a", t=a)
        return compare([first, evaluation(tmp_path / "b", t=b)], **options).rows[0].cells[1]

    return of


def perplexity(values, weights=None):
    values = np.asarray(values, float)
    return Score(values, np.ones(len(values)) if weights is None else weights, True, False)


class TestStatistics:
    @pytest.mark.parametrize("kind", ["accuracy", "perplexity", "ratio"])
    def test_the_interval_is_scipys_paired_percentile_bootstrap(self, pair, kind):
        rng = np.random.default_rng(1)
        n = 150
        weights = rng.integers(1, 40, n).astype(float)
        a = rng.gamma(4, 0.5, n) * weights
        b = a * rng.normal(0.97, 0.2, n)
        if kind == "accuracy":
            a, b, weights = rng.random(n) < 0.5, rng.random(n) < 0.6, np.ones(n)
        make = perplexity if kind == "perplexity" else Score
        a, b = make(a.astype(float), weights), make(b.astype(float), weights)
        f = np.exp if kind == "perplexity" else lambda x: x

        def delta(i, axis):
            w = weights[i].sum(axis)
            return f(b.values[i].sum(axis) / w) - f(a.values[i].sum(axis) / w)

        oracle = stats.bootstrap(
            (np.arange(n),), delta, n_resamples=20_000, method="percentile", rng=2, batch=1000
        )
        cell, width = pair(a, b), np.ptp(oracle.confidence_interval)
        assert cell.delta == pytest.approx(b.value - a.value)
        assert cell.interval == pytest.approx(oracle.confidence_interval, abs=0.03 * width)

    def test_of_many_documents_it_is_the_normal_interval_and_p(self, pair):
        rng = np.random.default_rng(3)
        a = rng.normal(size=2000)
        b = a + rng.normal(0.02, 0.5, 2000)
        mean, error = (b - a).mean(), (b - a).std(ddof=1) / math.sqrt(2000)
        cell = pair(a, b)
        expected = (mean - 1.96 * error, mean + 1.96 * error)
        assert cell.interval == pytest.approx(expected, abs=0.1 * error)
        assert cell.p == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)

    def test_where_models_do_not_differ_one_interval_in_twenty_excludes_zero(
        self, pair, monkeypatch
    ):
        monkeypatch.setattr(compare_lib, "RESAMPLES", 1000)
        rng = np.random.default_rng(4)
        cells = []
        for seed in range(400):
            hard = rng.normal(size=40)
            a, b = rng.normal(hard), rng.normal(hard)
            cells.append(pair(a, b, seed=seed))
        # Of 40 documents the percentile interval is a little narrow: 6%. Two errors are 2.4%.
        assert 0.03 < np.mean([cell.mark != "tie" for cell in cells]) < 0.09
        assert 0.025 < np.mean([cell.p < 0.05 for cell in cells]) < 0.08
        assert {cell.mark for cell in cells} == {"win", "loss", "tie"}

    def test_p_is_that_of_the_sign_test_where_all_differ_alike(self, pair):
        assert pair([0] * 12, [1] * 12).p == pytest.approx(2 / 2**12, abs=4e-4)
        assert pair([0] * 3, [1] * 3).p == pytest.approx(0.25, abs=0.02)

    def test_pairing_sees_what_two_standard_errors_hide(self, pair):
        a = np.random.default_rng(5).normal(size=100)
        cell = pair(a, a + 0.01)
        assert cell.mark == "win" and cell.stderr > 0.05

    def test_a_models_interval_does_not_depend_on_who_else_is_compared(self, tmp_path):
        a, b, c = np.random.default_rng(6).random((3, 30))
        models = [evaluation(tmp_path / n, t=v) for n, v in zip("abc", (a, b, c), strict=True)]
        together = compare(models).rows[0].cells
        assert together[1] == compare(models[:2]).rows[0].cells[1]
        assert together[2] == compare([models[0], models[2]]).rows[0].cells[1]

    def test_the_same_seed_gives_the_same_and_another_seed_another_interval(self, pair):
        a, b = np.random.default_rng(7).random((2, 50))
        assert pair(a, b) == pair(a, b)
        assert pair(a, b).interval != pair(a, b, seed=1).interval


class TestMarks:
    UP = np.arange(20.0) / 20

    def test_more_is_a_win(self, pair):
        assert pair(self.UP, self.UP + 1).mark == "win"
        assert pair(self.UP, self.UP - 1).mark == "loss"

    def test_less_perplexity_is_a_win(self, pair):
        assert pair(perplexity(self.UP), perplexity(self.UP - 1)).mark == "win"
        assert pair(perplexity(self.UP), perplexity(self.UP + 1)).mark == "loss"

    def test_a_model_ties_with_itself_exactly(self, tmp_path):
        rng = np.random.default_rng(8)
        weights = rng.integers(1, 9, 37).astype(float)
        both = {"acc": rng.random(37), "ppl": perplexity(rng.random(37) * 30, weights)}
        one = evaluation(tmp_path / "a", t=both)
        for row in compare([one, one, one]).rows:
            for cell in row.cells[1:]:
                assert (cell.delta, cell.interval, cell.p, cell.mark) == (0, (0, 0), 1, "tie")

    def test_one_document_names_no_winner(self, pair):
        assert pair([0], [1]).mark == "few"
        assert pair([1], [1]).mark == "tie"
        assert math.isnan(pair([1], [1]).stderr)

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_a_document_without_a_finite_value_leaves_the_row_undefined(self, pair, odd):
        for a, b in (
            (self.UP, np.append(self.UP[1:], odd)),
            (np.append(self.UP[1:], odd), self.UP),
        ):
            cell = pair(perplexity(a), perplexity(b))
            assert cell.mark == "undefined" and np.isnan(cell.interval).all()

    def test_documents_without_weight_leave_the_row_undefined(self, pair):
        assert pair(Score(self.UP, np.zeros(20)), Score(self.UP, np.zeros(20))).mark == "undefined"

    def test_a_perplexity_beyond_all_numbers_is_undefined(self, pair):
        assert pair(perplexity([2000.0] * 12), perplexity([1.0] * 12)).mark == "undefined"


def entry(benchmark, task, metric="acc", **more):
    shape = {"shots": 0, "percent": True, "average": True}
    return {"benchmark": benchmark, "task": task, "metric": metric} | shape | more


class TestTable:
    A, B = (np.arange(40) % 2).astype(float), (np.arange(40) % 4 > 0).astype(float)
    TABLE = [
        entry("OWT ppl", "owt", "ppl", percent=False, average=False),
        entry("ARC-E", "arc"),
        entry("WebQS", "web", shots=1),
    ]

    def models(self, tmp_path):
        owt = perplexity(np.log(5.74) * np.ones(40)), perplexity(np.log(5.21) * np.ones(40))
        return [
            evaluation(tmp_path / n, n, self.TABLE, owt={"ppl": o}, arc=v, web=v)
            for n, o, v in zip(("base", "sbp"), owt, (self.A, self.B), strict=True)
        ]

    def test_shows_the_baseline_and_deltas_and_beside_them_the_papers(self, tmp_path):
        paper = {"OWT ppl": [5.74, -0.53, None], "Average QA": [47.66, 2.32, 5.54]}
        text = compare(self.models(tmp_path), paper).markdown()
        lines = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if "|" in line]
        assert lines[0][3:] == ["base", "sbp", "paper", "paper's SBP", "paper's oracle"]
        assert lines[2][:4] == ["OWT ppl", "0", "40", "5.740 ± 0.000"]
        assert lines[2][4:] == ["-0.530 [-0.530, -0.530] win", "5.74", "-0.53", "–"]
        assert lines[3][3] == "50.00 ± 8.01" and lines[3][4].startswith("+25.00 [")
        assert lines[4][:2] == ["WebQS", "1"] and lines[4][5:] == ["–"] * 3
        assert lines[5][:3] == ["Average QA", "", "80"]
        assert lines[5][5:] == ["47.66", "+2.32", "+5.54"]
        assert "95%" in text

    def test_the_average_is_of_independent_tasks(self, tmp_path):
        *_, arc, web, average = compare(self.models(tmp_path)).rows
        assert average.cells[1].delta == pytest.approx(0.25)
        assert average.cells[0].stderr == pytest.approx(arc.cells[0].stderr / math.sqrt(2))
        width = [np.ptp(row.cells[1].interval) for row in (arc, web, average)]
        assert width[2] == pytest.approx(np.mean(width[:2]) / math.sqrt(2), rel=0.15)

    def test_a_model_without_one_of_its_tasks_has_no_average(self, tmp_path):
        first, _ = self.models(tmp_path)
        other = evaluation(
            tmp_path / "c", "c", self.TABLE[:2], owt={"ppl": perplexity(self.A)}, arc=self.B
        )
        rows = compare([first, other]).rows
        assert [row.cells[1] is None for row in rows] == [False, False, True, True]
        assert rows[3].cells[0].value == 0.5

    def test_a_part_of_the_suite_has_no_average(self, tmp_path):
        first, second = self.models(tmp_path)
        for model in (first, second):
            model.recorded["average"] = None
        assert "Average QA" not in compare([first, second]).markdown()
        second.recorded["average"] = {"value": 0.5}
        assert "Average QA" in compare([first, second]).markdown()

    def test_rows_of_one_benchmark_are_told_apart_by_metric(self, tmp_path):
        table = [entry("<b>", "t", metric) for metric in ("acc", "acc_norm")]
        model = evaluation(tmp_path, "m", table, t={"acc": self.A, "acc_norm": self.B})
        comparison = compare([model, model])
        names = [row.benchmark for row in comparison.rows]
        assert names == ["<b> acc", "<b> acc_norm", "Average QA"]
        assert "<b>" not in comparison.html_page()

    def test_what_only_others_have_is_shown_without_a_delta(self, tmp_path):
        first = evaluation(tmp_path / "a", t=self.A)
        other = evaluation(tmp_path / "b", t=self.B, u=self.B)
        comparison = compare([first, other])
        assert [row.benchmark for row in comparison.rows] == ["t acc", "u acc"]
        assert comparison.rows[1].cells[0] is None
        assert "= 0.7500" in comparison.markdown()

    def test_more_than_five_models_with_long_and_odd_names_stay_apart(self, tmp_path):
        names = ["x" * 200, "a|b", "<script>alert(1)</script>", "same", "same", "line\nend", "é"]
        models = [evaluation(tmp_path / str(i), n, t=self.A) for i, n in enumerate(names)]
        comparison = compare([*models, models[-1]])
        assert len(set(comparison.models)) == 8
        table = [line for line in comparison.markdown().splitlines() if line.startswith("|")]
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {12}
        assert len({len(line) for line in table}) == 1
        assert "<script" not in comparison.html_page()

    def test_json_is_plain_and_has_no_number_that_is_not_finite(self, tmp_path):
        a = evaluation(tmp_path / "a", t=perplexity([math.inf] * 12), u=[1])
        comparison = compare([a, a])
        comparison.write(tmp_path / "out")
        text = (tmp_path / "out" / "comparison.json").read_text()
        data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        assert data == comparison.as_dict()
        assert data["rows"][0]["cells"][1]["interval"] == [None, None]
        assert data["rows"][1]["cells"][1]["mark"] == "tie"

    def test_html_is_one_whole_file_without_network_and_marks_by_words(self, tmp_path):
        page = compare(self.models(tmp_path)).html_page()
        open_tags = []

        class Reader(html.parser.HTMLParser):
            def handle_starttag(self, tag, attributes):
                assert not {"src", "href"} & {name for name, _ in attributes}
                if tag != "meta":
                    open_tags.append(tag)

            def handle_endtag(self, tag):
                assert open_tags.pop() == tag

        Reader().feed(page)
        assert not open_tags and "http" not in page and "url(" not in page
        assert "prefers-color-scheme: dark" in page and "overflow-x: auto" in page
        assert re.search(r'<td class="win"[^>]*>[^<]* win</td>', page)


class TestRefusals:
    def test_other_documents_are_one_line_with_the_task_and_both_counts(self, tmp_path):
        a = evaluation(tmp_path / "a", t=[1, 0, 1])
        b = evaluation(tmp_path / "b", t=[1, 0])
        with pytest.raises(UserError) as error:
            compare([a, b])
        assert re.match(r"t: other documents \(3 in .*/a, 2 in .*/b\)", str(error.value))
        assert "--limit" in str(error.value) and "\n" not in str(error.value)

    def test_another_order_is_refused_as_well(self, tmp_path):
        a = evaluation(tmp_path / "a", t=[1, 0], hashes=["x", "y"])
        b = evaluation(tmp_path / "b", t=[0, 1], hashes=["y", "x"])
        with pytest.raises(UserError, match="t: other documents"):
            compare([a, b])

    def test_one_model_is_no_comparison(self, tmp_path):
        with pytest.raises(UserError, match="two or more"):
            compare([evaluation(tmp_path / "a", t=[1, 0])])

    def test_other_shots_are_noted(self, tmp_path):
        a = evaluation(tmp_path / "a", t=[1, 0])
        b = evaluation(tmp_path / "b", t=[1, 0], shots=5)
        assert "t: evaluated with 0 and 5 shots." in compare([a, b]).notes
