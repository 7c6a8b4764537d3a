import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.evaluation.scores import Results, Score, TaskScores

numbers = st.floats(-1e3, 1e3, allow_nan=False)


def values(least=2):
    return hnp.arrays(np.float64, st.integers(least, 40), elements=numbers)


class TestScore:
    @given(values())
    def test_with_weights_of_one_it_is_the_mean_and_its_standard_error(self, values):
        score = Score(values, np.ones_like(values))
        assert score.value == pytest.approx(values.mean(), abs=1e-9)
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert score.stderr == pytest.approx(error, abs=1e-9)

    @given(values(1), st.data())
    def test_a_count_of_n_is_the_document_n_times(self, values, data):
        counts = np.array(
            data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
        )
        weights = 1 + np.arange(len(values)) % 3.0
        repeated = Score(np.repeat(values, counts), np.repeat(weights, counts))
        got = Score(values, weights).of(counts.astype(float))
        assert got == pytest.approx(repeated.value, abs=1e-9, nan_ok=True)

    @given(values(), st.data())
    def test_only_keeps_the_documents_of_the_mask(self, values, data):
        kept = data.draw(hnp.arrays(bool, len(values)))
        score = Score(values, np.ones_like(values), higher_is_better=False).only(kept)
        assert score.values.tolist() == values[kept].tolist()
        assert len(score.weights) == kept.sum() and not score.higher_is_better

    def test_perplexity_is_exp_of_the_weighted_mean(self):
        score = Score(np.array([4.0, 6.0]), np.array([2.0, 3.0]), perplexity=True)
        assert score.value == pytest.approx(math.exp(2))
        assert score.stderr == pytest.approx(0)

    def test_the_error_of_a_ratio_is_that_of_many_samples(self):
        rng = np.random.default_rng(0)
        weights = rng.integers(1, 50, 400).astype(float)
        score = Score(weights * rng.gamma(9, 0.2, 400), weights, perplexity=True)
        counts = rng.multinomial(400, np.full(400, 1 / 400), 4000).astype(float)
        assert score.stderr == pytest.approx(score.of(counts).std(), rel=0.05)

    @pytest.mark.parametrize(
        "values, weights, value",
        [
            ([1.0], [1.0], 1.0),
            ([], [], math.nan),
            ([0.0, 0.0], [0.0, 0.0], math.nan),
            ([1e6, 1e6], [1.0, 1.0], math.inf),
            ([math.inf, 1.0], [1.0, 1.0], math.inf),
            ([math.nan, 1.0], [1.0, 1.0], math.nan),
        ],
    )
    def test_degenerate_documents_raise_nothing(self, values, weights, value):
        perplexity = value == math.inf
        score = Score(np.array(values), np.array(weights), perplexity)
        assert score.value == pytest.approx(value, nan_ok=True)
        assert not np.isfinite(score.stderr) or score.stderr == 0


class TestResults:
    def written(self, folder):
        scores = TaskScores(
            ["a", "b"],
            ["Text | one", "zwei"],
            {
                "acc": Score(np.array([1.0, 0.0]), np.ones(2)),
                "ppl": Score(np.array([3.0, math.inf]), np.array([1.0, 2.0]), True, False),
            },
            shots=5,
        )
        entry = scores.write(folder, "task")
        files.write_json(folder / "results.json", {"name": "m", "tasks": {"task": entry}})
        return scores

    def test_are_read_as_they_were_written(self, tmp_path):
        wrote = self.written(tmp_path)
        for path in (tmp_path, tmp_path / "results.json"):
            read = Results.read(path)
            task = read.tasks["task"]
            assert (read.name, task.hashes, task.texts) == ("m", wrote.hashes, wrote.texts)
            assert task.shots == 5
            for name, score in wrote.metrics.items():
                assert task.metrics[name].values.tolist() == score.values.tolist()
                assert task.metrics[name].weights.tolist() == score.weights.tolist()
                assert task.metrics[name].perplexity == score.perplexity
                assert task.metrics[name].higher_is_better == score.higher_is_better

    def test_a_folder_without_results_is_named(self, tmp_path):
        with pytest.raises(UserError, match=f"{tmp_path}: no results.json"):
            Results.read(tmp_path)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": null}', "\x00"])
    def test_another_results_json_is_refused(self, tmp_path, text):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(UserError, match="results.json: not the results of an evaluation"):
            Results.read(tmp_path)

    def test_samples_that_changed_are_refused(self, tmp_path):
        self.written(tmp_path)
        path = tmp_path / "samples" / "task.parquet"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(UserError, match=r"task.parquet: not what results.json was made of"):
            _ = Results.read(tmp_path).tasks

    def test_samples_that_are_gone_are_named(self, tmp_path):
        self.written(tmp_path)
        (tmp_path / "samples" / "task.parquet").unlink()
        with pytest.raises(UserError, match=r"task.parquet: cannot read"):
            _ = Results.read(tmp_path).tasks
