"""Tasks on a model that costs nothing: mistakes in rows and tasks, and what makes a score stale."""

import json
import sys

import pyarrow.parquet
import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.model import TemplateLM

from sbp_jax.errors import UserError
from sbp_jax.evaluation.run import run
from sbp_jax.evaluation.tasks import plan

ARC = {"question": "a", "choices": {"text": ["b", "cc"], "label": ["A", "B"]}, "answerKey": "A"}
MMLU = {"question": "a", "choices": ["b", "c", "d", "e"], "answer": 0, "subject": "law"}
LAW = [MMLU | {"question": str(i)} for i in range(6)]


class Counter(TemplateLM):
    """The longer, the less likely; it says what it was told."""

    max_length, eot_token_id, tokenizer_name, asked = 128, 0, "bytes", 0

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return list(string.encode())

    def _loglikelihood_tokens(self, requests, **kwargs):
        self.asked += len(requests)
        return [(-float(len(continuation)), False) for *_, continuation in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        return [-float(len(request.args[0])) for request in requests]

    def generate_until(self, requests, disable_tqdm=False):
        assert all(request.args[1]["max_gen_toks"] == 32 for request in requests)
        return [request.args[0] for request in requests]


@pytest.fixture
def scores(tmp_path):
    """The part of results.json, of rows by the names of their files."""

    def of(suite, files, model=None):
        for name, rows in files.items():
            path = tmp_path / "rows" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = rows if isinstance(rows, str) else "".join(json.dumps(r) + "\n" for r in rows)
            path.write_text(lines)
        planned = plan(suite, str(tmp_path / "rows"), print)
        return run(planned, model or Counter(), tmp_path / "w", identity={})

    return of


def own(tmp_path, more):
    return (
        "task: own\ndataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/rows/own_rows.json}}}}\n"
        f'doc_to_text: "{{{{q}}}}"\ndoc_to_target: "{{{{a}}}}"\n{more}'
    )


@pytest.mark.parametrize(
    ("task", "rows", "said"),
    [
        ("arc_easy", [ARC, ARC | {"answerKey": 1}], "line 2: answerKey is a number, but a str in"),
        ("arc_easy", [ARC | {"choices": "a"}, ARC], "line 2: choices is a dict, but a str in"),
        ("arc_easy", [ARC, ARC | {"question": "\ud800"}], "arc_easy.jsonl: its rows make no table"),
        ("mmlu", [*LAW, MMLU | {"answer": -1}], "document 7: its answer, -1, is none of its 4"),
        ("mmlu", [r | {"answer": "0"} for r in LAW], "document 1: its answer, '0', is none of"),
        ("mmlu", [*LAW, MMLU | {"answer": 0.5}], "mmlu: a row does not fit the task"),
    ],
)
def test_a_wrong_row_is_one_line(scores, task, rows, said):
    with pytest.raises(UserError, match=said):
        scores(task, {f"{task}.jsonl": rows})


def test_an_answer_may_be_a_choice_instead_of_its_number(scores):
    by_number = scores("mmlu", {"mmlu.jsonl": LAW})
    by_letter = scores("mmlu", {"mmlu.jsonl": [r | {"answer": "A"} for r in LAW]})
    assert "answer_perplexity" in by_number["mmlu"]["metrics"]
    assert by_letter["mmlu"]["metrics"] == by_number["mmlu"]["metrics"]


def test_a_column_may_begin_in_a_later_row(scores, tmp_path):
    scores("arc_easy", {"arc_easy.jsonl": [ARC, ARC | {"more": "x"}]})
    [planned] = plan("arc_easy", str(tmp_path / "rows"), print)
    assert [row["more"] for row in planned.tasks[0].eval_docs] == [None, "x"]


def test_what_a_corpus_would_hold_may_be_a_template(scores, tmp_path):
    more = (
        "output_type: loglikelihood\nmetric_list: [{metric: acc}]\n"
        'should_decontaminate: true\ndoc_to_decontamination_query: "{{q}}?"\n'
    )
    rows = [{"q": "a river", "a": "x"}, {"q": "b", "a": "x"}]
    scores("own", {"own.yaml": own(tmp_path, more), "own_rows.json": rows})
    samples = pyarrow.parquet.read_table(tmp_path / "w" / "samples" / "own.parquet")
    assert samples["text"].to_pylist() == ["a river?", "b?"]


def test_a_task_without_settings_of_generation_fits_a_small_context(scores, tmp_path):
    more = "output_type: generate_until\nmetric_list: [{metric: exact_match}]\n"
    rows = [{"q": "a", "a": "a"}, {"q": "b", "a": "c"}]
    entry = scores("own", {"own.yaml": own(tmp_path, more), "own_rows.json": rows})["own"]
    assert entry["metrics"]["exact_match"]["value"] == 0.5


def test_a_task_of_nothing_but_other_metrics_is_refused_before_it_runs(scores, tmp_path):
    more = (
        "output_type: multiple_choice\ndoc_to_choice: [a, b]\n"
        "metric_list: [{metric: f1}, {metric: mcc}]\n"
    )
    model = Counter()
    with pytest.raises(UserError, match="own: f1, mcc: no average"):
        files = {"own.yaml": own(tmp_path, more), "own_rows.json": [{"q": "a", "a": "a"}]}
        scores("own", files, model)
    assert model.asked == 0


def test_a_metric_that_some_documents_lack_is_named(scores, tmp_path):
    more = (
        "output_type: generate_until\nprocess_results: !function own_code.results\n"
        "metric_list:\n- {metric: acc, aggregation: mean, higher_is_better: true}\n"
        "- {metric: long, aggregation: mean, higher_is_better: true}\n"
    )
    code = "def results(row, texts):\n    return {'acc': 1, **({'long': 1} if row['a'] else {})}\n"
    files = {"own.yaml": own(tmp_path, more), "own_code.py": code}
    with pytest.raises(UserError, match="own: document 1 has no metric long"):
        scores("own", files | {"own_rows.json": [{"q": "a", "a": ""}, {"q": "b", "a": "c"}]})


def test_the_name_of_a_task_is_no_path(scores, tmp_path):
    text = own(tmp_path, "").replace("task: own", "task: ../own")
    with pytest.raises(UserError, match="'../own' names the task's files"):
        scores("../own", {"own.yaml": text})


def test_the_suite_stands_alone(scores):
    with pytest.raises(UserError, match="sbp stands alone"):
        scores("sbp,arc_easy", {"arc_easy.jsonl": [ARC]})


def test_damaged_files_and_another_context_are_scored_anew(scores, tmp_path):
    rows = {"arc_easy.jsonl": [ARC, ARC]}

    def asked(context=128):
        model = Counter()
        model.max_length = context
        scores("arc_easy", rows, model)
        return model.asked

    assert asked() == 4 and asked() == 0
    for damaged in ("samples/arc_easy.parquet", "tasks/arc_easy.json"):
        path = tmp_path / "w" / damaged
        path.write_bytes(path.read_bytes()[:-9])
        assert asked() == 4 and asked() == 0
    assert asked(64) == 4 and asked(64) == 0


def test_any_changed_example_is_scored_anew(scores, tmp_path):
    answer = {"aliases": ["a"], "value": "a"}
    examples = [{"question": str(i), "answer": answer} for i in range(1100)]
    keys = set()
    for last in ("a", "a", "b"):
        examples[-1]["question"] = last
        files = {"validation": [{"question": "a", "answer": answer}], "train": examples}
        scores("triviaqa", {f"triviaqa/{split}.jsonl": rows for split, rows in files.items()})
        keys.add(json.loads((tmp_path / "w" / "tasks" / "triviaqa.json").read_text())["key"])
    assert len(keys) == 2


def test_changed_code_of_a_task_is_scored_anew(scores, tmp_path):
    more = (
        "output_type: multiple_choice\ndoc_to_choice: [a, b]\n"
        "process_results: !function own_score.results\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    found = []
    for value in (1.0, 0.25):  # of what the function calls; Python knows code by second and size
        code = f"def value(): return {value}\ndef results(row, got): return {{'acc': value()}}\n"
        (tmp_path / "rows").mkdir(exist_ok=True)
        (tmp_path / "rows" / "own_score.py").write_text(code)
        sys.modules.pop("own_score", None)  # as in another process
        files = {"own.yaml": own(tmp_path, more), "own_rows.json": [{"q": "a", "a": "a"}]}
        found.append(scores("own", files)["own"]["metrics"]["acc"]["value"])
    assert found == [1.0, 0.25]
