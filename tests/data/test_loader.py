"""The loader: what a step sees is a function of the config and the stores, and of nothing else."""

import itertools
import threading
from dataclasses import dataclass

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sbp_jax.data import write_tokens as writing
from sbp_jax.data.corpus import Corpus, Document
from sbp_jax.data.loader import Loader, held_out_batches
from sbp_jax.data.pack import write_pairs
from sbp_jax.data.tokens import TokenStore
from sbp_jax.data.write_tokens import write_tokens
from sbp_jax.errors import UserError

EOS = 0


@dataclass(frozen=True)
class Texts:
    name: str
    texts: list[str]

    def read(self, on_bad_row):
        for i, text in enumerate(self.texts):
            yield Document(str(i), text)


class Numbers:
    """A text is its ids: "5 6 7". There is no bos."""

    vocab_size, bos_id, eos_id, fingerprint = 100_000, None, EOS, "numbers"
    stop_ids = (EOS,)

    def encode(self, texts):
        return [[int(word) for word in text.split()] for text in texts]


def make_store(folder, documents, held_out=0.0) -> TokenStore:
    texts = [" ".join(map(str, ids)) for ids in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "load_tokenizer", lambda path: Numbers())
        writing._tokenizer.cache_clear()
        corpus = Corpus("test", [Texts("0", texts)], str(documents))
        write_tokens(corpus, "", folder, seed=0, held_out=held_out, workers=1, on_error="stop")
        writing._tokenizer.cache_clear()
    return TokenStore(folder)


def make_loader(sources, **changes) -> Loader:
    sources = {k: v if isinstance(v, tuple) else (v, 1.0, 0.0) for k, v in sources.items()}
    arguments = {
        "seed": 0,
        "sequence_length": 8,
        "batch_size": 8,
        "num_steps": 10,
        "document_mask": True,
    }
    return Loader(sources, **{**arguments, **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 1000, rng.integers(0, 30)).tolist() for _ in range(60)]
    return make_store(tmp_path_factory.mktemp("store"), documents, held_out=0.2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> TokenStore:
    examples = [([1] * (1 + i % 4), [2 + i] * (1 + i % 3) + [EOS]) for i in range(40)]
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(examples, folder, tokenizer=Numbers(), row_length=9, name="pairs", fingerprint="p")
    return TokenStore(folder)


def sharding_of(replica=1, fsdp=1, context=1) -> NamedSharding:
    devices = np.array(jax.devices()[: replica * fsdp * context]).reshape(replica, fsdp, context)
    return NamedSharding(
        Mesh(devices, ("replica", "fsdp", "context")), P(("replica", "fsdp"), "context")
    )


def stacked(loader: Loader, step: int) -> dict[str, np.ndarray]:
    first = step * loader.batch_size
    examples = [loader.example(first + row) for row in range(loader.batch_size)]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def assert_same(batch, expected):
    assert batch.keys() == expected.keys()
    for name in expected:
        assert batch[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(np.asarray(batch[name]), expected[name])


def test_a_window_is_a_slice_of_the_training_tape_shifted_by_one(store):
    loader = make_loader({"a": store}, num_steps=20)
    tape = store.read(0, store.num_training_tokens)
    windows = {tuple(tape[i : i + 9]): i for i in range(0, len(tape) - 8, 8)}
    seen = []
    for index in range(loader.num_examples):
        example = loader.example(index)
        inputs, targets = example["inputs"], example["targets"]
        np.testing.assert_array_equal(inputs[1:], targets[:-1])
        seen.append(windows[(*inputs.tolist(), int(targets[-1]))])
        before = [int((inputs[:j] == EOS).sum()) for j in range(8)]
        assert example["segments"].tolist() == before
        assert example["weights"].tolist() == [float(i != EOS) for i in inputs]
        assert [v.dtype.name for v in example.values()] == ["int32", "int32", "int32", "float32"]
    (described,) = loader.describe()
    assert described["windows"] == len(windows) == len(range(0, len(tape) - 8, 8))
    assert set(seen[: len(windows)]) == set(windows.values())


def test_without_document_mask_a_window_is_one_segment_and_all_targets_count(store):
    loader = make_loader({"a": store}, document_mask=False)
    batch = loader.rows(0, np.arange(8))
    assert not batch["segments"].any() and batch["weights"].all()
    assert (batch["inputs"] == EOS).any()


def test_rows_of_pairs_keep_examples_apart_and_count_targets_alone(pairs):
    loader = make_loader({"pairs": pairs}, num_steps=len(range(0, pairs.num_documents, 8)))
    for index in range(min(loader.num_examples, pairs.num_documents)):
        e = loader.example(index)
        same = e["segments"][1:] == e["segments"][:-1]
        for j in np.flatnonzero(e["weights"]):
            target = e["targets"][j]
            assert target == EOS or target >= 2
            if j < 7:
                assert same[j]  # the target is in the segment that predicts it
        for segment in range(e["segments"].max() + 1):
            ids = e["inputs"][e["segments"] == segment]
            assert len({int(i) for i in ids if i >= 2}) <= 1  # one example's target ids
    counted = sum(loader.example(i)["weights"].sum() for i in range(pairs.num_documents))
    assert counted == pairs.manifest["target_tokens"]


@pytest.fixture(scope="module")
def tapes(tmp_path_factory) -> list[TokenStore]:
    """Tapes of so many windows of 2 tokens; ids tell the tape (thousands) and the window."""
    folder = tmp_path_factory.mktemp("tapes")
    return [
        make_store(folder / str(i), [list(range(1 + 1000 * i, 1 + 1000 * i + 2 * windows))])
        for i, windows in enumerate((1, 2, 7, 23, 40))
    ]


@settings(max_examples=30)
@given(
    weights=st.dictionaries(st.integers(0, 4), st.floats(0.01, 100), min_size=1),
    batch_size=st.integers(1, 9),
    num_steps=st.integers(1, 25),
    seed=st.integers(0, 3),
)
def test_mixtures_are_exact_even_and_pass_by_pass(tapes, weights, batch_size, num_steps, seed):
    loader = make_loader(
        {str(i): (tapes[i], weight, 0.0) for i, weight in weights.items()},
        sequence_length=2,
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
    )
    total = batch_size * num_steps
    first = [int(loader.example(n)["inputs"][0]) - 1 for n in range(total)]
    taken = np.array([i // 1000 for i in first])
    for (i, weight), described in zip(weights.items(), loader.describe(), strict=True):
        used, windows = described["windows_used"], described["windows"]
        assert (taken == i).sum() == used
        assert abs(used - total * weight / sum(weights.values())) < 1
        assert described["passes"] == used / windows
        ideal = np.arange(1, total + 1) * used / total
        slack = 0.5 if len(weights) <= 2 else len(weights) / 2
        assert np.abs(np.cumsum(taken == i) - ideal).max() <= slack + 1e-9
        mine = [j % 1000 // 2 for j in first if j // 1000 == i]
        for start in range(0, len(mine), windows):
            one_pass = mine[start : start + windows]
            assert len(set(one_pass)) == len(one_pass)  # complete, but for the last


def test_each_pass_has_an_order_of_its_own(tmp_path):
    tape = make_store(tmp_path, [list(range(1, 401))])
    loader = make_loader({"a": tape}, sequence_length=4, batch_size=10, num_steps=30)
    order = [int(loader.example(n)["inputs"][0]) for n in range(300)]
    passes = [order[i : i + 100] for i in (0, 100, 200)]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    for a, b in itertools.combinations([*passes, sorted(order[:100])], 2):
        assert np.mean(np.array(a) == np.array(b)) < 0.1
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.4


def test_the_order_stays_what_it_was_in_earlier_versions(tmp_path):
    """Another order here would silently change the data of every run that resumes."""
    a = make_store(tmp_path / "a", [list(range(1, 41))])
    b = make_store(tmp_path / "b", [list(range(1001, 1041))])
    loader = make_loader(
        {"a": (a, 3.0, 0.0), "b": (b, 1.0, 0.0)}, sequence_length=4, batch_size=4, num_steps=4
    )
    order = [int(loader.example(n)["inputs"][0]) for n in range(16)]
    assert order == [9, 13, 1037, 37, 25, 1, 1033, 29, 33, 17, 1005, 21, 5, 1, 1013, 17]


def test_global_batches_do_not_depend_on_the_mesh_or_where_a_run_resumes(store, pairs):
    loader = make_loader({"a": (store, 2.0, 0.0), "p": (pairs, 1.0, 0.0)})
    meshes = [(1, 1, 1), (1, 8, 1), (2, 4, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8), (8, 1, 1)]
    for mesh, start in zip(meshes, (0, 0, 3, 9, 5, 0, 7), strict=True):
        sharding = sharding_of(*mesh)
        with loader.batches(sharding, start, threads=3) as batches:
            steps = list(batches)
        assert len(steps) == loader.num_steps - start
        for step, batch in enumerate(steps, start):
            assert all(array.sharding == sharding for array in batch.values())
            assert_same(batch, stacked(loader, step))


@settings(max_examples=30, deadline=None)
@given(hosts=st.lists(st.integers(0, 3), min_size=8, max_size=8), step=st.integers(0, 9))
def test_hosts_that_share_out_the_rows_make_up_the_same_batch(store, hosts, step):
    loader = make_loader({"a": store})
    whole = loader.rows(step, np.arange(8))
    for host in set(hosts):
        rows = np.flatnonzero(np.array(hosts) == host)
        assert_same(loader.rows(step, rows), {name: array[rows] for name, array in whole.items()})


def test_leaving_the_batches_ends_their_threads(store):
    loader = make_loader({"a": store}, num_steps=1000)
    before = threading.active_count()
    for _ in range(3):
        with loader.batches(sharding_of(), threads=4) as batches:
            next(batches)
    for thread in threading.enumerate():
        if thread.name.startswith("grain"):
            thread.join(5)
    assert threading.active_count() <= before


def test_damage_that_a_prefetching_thread_meets_reaches_the_caller(tmp_path):
    store = make_store(tmp_path, [list(range(1, 400))])
    shard = tmp_path / "tokens/c/0"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    loader = make_loader({"a": TokenStore(store.path)})
    with (
        pytest.raises(UserError, match="array 'tokens' is damaged"),
        loader.batches(sharding_of()) as batches,
    ):
        next(batches)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_held_out_batches_predict_every_held_out_token_once(store, batch_size):
    start, stop = store.num_training_tokens, store.num_tokens
    tape = store.read(start, stop)
    batches = list(
        held_out_batches(
            store,
            part="held_out",
            sequence_length=8,
            batch_size=batch_size,
            max_sequences=10_000,
            sharding=sharding_of(),
            document_mask=False,
        )
    )
    assert {b["inputs"].shape for b in batches} == {(batch_size, 8)}
    targets = np.concatenate([np.asarray(b["targets"]).ravel() for b in batches])
    weights = np.concatenate([np.asarray(b["weights"]).ravel() for b in batches])
    np.testing.assert_array_equal(targets[weights > 0], tape[1:])


def test_held_out_batches_stop_at_max_sequences_and_pad_with_weight_zero(store):
    arguments = {"sequence_length": 8, "document_mask": True, "part": "held_out"}
    (batch,) = held_out_batches(
        store, batch_size=8, max_sequences=5, sharding=sharding_of(1, 8), **arguments
    )
    weights = np.asarray(batch["weights"])
    assert weights[:5].any(axis=1).all() and not weights[5:].any()
    (one,) = held_out_batches(
        store, batch_size=5, max_sequences=5, sharding=sharding_of(), **arguments
    )
    np.testing.assert_array_equal(np.asarray(batch["inputs"])[:5], np.asarray(one["inputs"]))


def test_all_rows_of_pairs_can_be_evaluated(pairs):
    batches = held_out_batches(
        pairs,
        part="all",
        sequence_length=8,
        batch_size=8,
        max_sequences=10_000,
        sharding=sharding_of(1, 4, 2),
        document_mask=True,
    )
    counted = sum(np.asarray(b["weights"]).sum() for b in batches)
    assert counted == pairs.manifest["target_tokens"]


def test_store_without_held_out_part_is_refused_for_evaluation(pairs):
    with pytest.raises(UserError, match="held_out part has no tokens"):
        held_out_batches(
            pairs,
            part="held_out",
            sequence_length=8,
            batch_size=8,
            max_sequences=1,
            sharding=sharding_of(),
            document_mask=True,
        )


def test_more_passes_than_allowed_are_refused_with_the_numbers(store):
    windows = make_loader({"a": store}).describe()[0]["windows"]
    steps = windows // 8 * 2
    make_loader({"a": (store, 1.0, 2.0)}, num_steps=steps)
    message = rf"'a'.* needs {(steps + 1) * 8} windows.* over its {windows} allow {2 * windows};"
    with pytest.raises(UserError, match=message):
        make_loader({"a": (store, 1.0, 2.0)}, num_steps=steps + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 100_000}, "make no window of 100000"),
        ({"weight": 0.0}, "weights must be above 0: a"),
        ({"weight": float("nan")}, "weights must be above 0: a"),
        ({"pairs": True, "sequence_length": 7}, "sequence_length=8, not 7"),
        ({"pairs": True, "document_mask": False}, "pairs .* set data.document_mask=True"),
    ],
)
def test_impossible_mixtures_are_refused(store, pairs, changes, message):
    source = pairs if changes.pop("pairs", False) else store
    with pytest.raises(UserError, match=message):
        make_loader({"a": (source, changes.pop("weight", 1.0), 0.0)}, **changes)


def test_fingerprint_tells_runs_with_other_data_apart(store, pairs):
    def of(sources=None, **changes):
        return make_loader(sources or {"a": store}, **changes).fingerprint

    both = {"a": store, "b": pairs}
    assert of() == of() == of(num_steps=11)  # one source only goes on
    others = [
        of(seed=1),
        of(batch_size=4),
        of(sequence_length=4),
        of(document_mask=False),
        of({"b": store}),
        of(both),
        of(both, num_steps=11),
        of({"a": (store, 2.0, 0.0), "b": (pairs, 1.0, 0.0)}),
    ]
    assert len({of(), *others}) == 1 + len(others)
