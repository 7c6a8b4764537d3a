"""Evaluation on CPU: our harness against lm-eval's own `hf` backend on the same exported model.

    python bench/evaluate.py [--sizes=tiny,small] [--repeats=3] [--questions=32] [--quick]

Requests have the shapes of the suite's, in words that nobody speaks: four answers to a question
("choice", as ARC), the same after a passage ("support", SciQ), one letter after five examples that
the questions of a subject share ("examples", MMLU), the last word of a passage ("word", LAMBADA),
whole documents in windows ("rolling", OpenWebText2), texts that end at a stop text ("texts",
TriviaQA).

Both sides compute in float32 with as many threads. Each lives in a process of its own and computes
while the other waits. The first call, in which ours compiles, is told apart; then `hf` tries its
batch sizes, once each, and both take turns, `hf` with the best of them. The figures are medians of
requests a second, and the largest difference of two log-likelihoods (of a document: for each of its
windows), which ends the bench if it is as large as `TOLERANCE`.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train_cpu import SIZES as SHAPES

from sbp_jax import cli
from sbp_jax.data.tokenizer import load_tokenizer

CONTEXT = 512
SIZES = {"tiny": ("1M", 1024), "small": ("20M", 16384)}  # shape, vocabulary
SIDES = ("jax", "hf")
BATCHES = (1, 16, 64)
TOLERANCE = 1e-3
UNTIL = {"until": ["\n", ".", ","], "do_sample": False, "max_gen_toks": 32}

Requests = tuple[str, list[tuple[Any, ...]]]  # lm-eval's kind, and the arguments of each


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--questions", type=int, default=32, help="of small; tiny has four times")
    parser.add_argument("--quick", action="store_true", help="says nothing but that it runs")
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"--sizes: unknown {', '.join(unknown)}; known: {', '.join(SIZES)}")
    if arguments.quick:
        sizes, arguments.repeats, arguments.questions = ["tiny"], 1, 2
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    print(f"{'requests/s':16}{'jax':>10}{'hf':>10}{'jax / hf':>10}{'batch':>8}", end="")
    print(f"{'first jax':>12}{'first hf':>12}{'difference':>12}", flush=True)
    for size in sizes:
        questions = arguments.questions * (4 if size == "tiny" and not arguments.quick else 1)
        with tempfile.TemporaryDirectory() as folder:
            make_model(size, Path(folder))
            tokenizer = load_tokenizer(f"{folder}/run/tokenizer")
            sides = {side: Side(side, folder) for side in SIDES}
            for name, (kind, requests) in workloads(questions).items():
                rates, answers = compare(kind, requests, sides, arguments.repeats)
                difference = agreement(kind, requests, *answers, tokenizer)
                print(f"{size} {name}".ljust(16) + f"{rates}{difference:>12}", flush=True)
            for side in sides.values():
                side.close()


def compare(
    kind: str, requests: list, sides: dict[str, "Side"], repeats: int
) -> tuple[str, list[list]]:
    """Columns of the table, and what each side answered."""
    ours, theirs = sides.values()
    first, answers = ours.answer(kind, requests, 16)
    peer_first, expected = theirs.answer(kind, requests, 16)
    tried = {batch: theirs.answer(kind, requests, batch)[0] for batch in BATCHES}
    best = min(tried, key=lambda batch: tried[batch])
    seconds: dict[Side, list[float]] = {ours: [], theirs: []}
    for turn in range(repeats):
        for side in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
            seconds[side].append(side.answer(kind, requests, best)[0])
    rate, peer = (len(requests) / statistics.median(seconds[side]) for side in (ours, theirs))
    columns = f"{rate:>10,.1f}{peer:>10,.1f}{rate / peer:>10.2f}{best:>8}"
    return columns + f"{first:>10.1f} s{peer_first:>10.1f} s", [answers, expected]


def agreement(kind: str, requests: list, ours: list, theirs: list, tokenizer: Any) -> str:
    """The largest difference of two log-likelihoods; of texts, how many are the same."""
    if kind == "generate_until":
        return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"
    if kind == "loglikelihood":
        pairs = ((a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
        worst = max(abs(a - b) for a, b in pairs)
    else:
        # Of a window, for `hf` adds up each in float32, in which -5,000 is exact to 0.0005.
        windows = (-(-len(tokenizer.encode([text])[0]) // CONTEXT) for (text,) in requests)
        worst = max(abs(a - b) / n for a, b, n in zip(ours, theirs, windows, strict=True))
    if not worst < TOLERANCE:
        sys.exit(f"{kind}: {worst} is the largest difference, {TOLERANCE} the most allowed")
    return f"{worst:.1e}"


class Side:
    """A model in a process of its own."""

    def __init__(self, name: str, folder: str):
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=serve, args=(name, folder, other), name=name)
        self._process.daemon = True
        self._log = Path(folder, f"{name}.log")
        self._process.start()
        other.close()  # so that its end is seen here

    def answer(self, kind: str, requests: list, batch: int) -> tuple[float, list]:
        """Seconds, and the answers; ours has no batch size for log-likelihoods."""
        self._pipe.send((kind, requests, batch))
        try:
            return self._pipe.recv()
        except EOFError:
            sys.exit(f"{self._process.name} failed:\n{self._log.read_text()[-3000:]}")

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def serve(name: str, folder: str, pipe: Any) -> None:
    with open(f"{folder}/{name}.log", "w") as log:  # `hf` shows progress and warns of what it cuts
        os.dup2(log.fileno(), 2)
    from lm_eval.api.instance import Instance

    model = open_jax(folder) if name == "jax" else open_hf(folder)
    while (asked := pipe.recv()) is not None:
        kind, arguments, model.batch_size_per_gpu = asked
        requests = [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]
        start = time.perf_counter()
        answers = getattr(model, kind)(requests, disable_tqdm=True)
        pipe.send((time.perf_counter() - start, answers))


def open_jax(folder: str) -> Any:
    from sbp_jax.evaluation.harness import HarnessModel
    from sbp_jax.inference.sampler import Sampler

    return HarnessModel(Sampler.from_checkpoint(f"{folder}/run"))


def open_hf(folder: str) -> Any:
    import torch

    from sbp_jax.config import EngineConfig
    from sbp_jax.evaluation.backends import open_backend

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as XLA has
    return open_backend("hf", f"{folder}/run", Path(folder, "hf"), EngineConfig())


def make_model(size: str, folder: Path) -> None:
    """A run that took no step; its layers large enough for a text to depend on its prompt."""
    import jax

    from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
    from sbp_jax.data.tokenizer import train_tokenizer
    from sbp_jax.model import transformer
    from sbp_jax.training.checkpoint import save_params

    shape, vocabulary = SIZES[size]
    layers, width, heads, kv_heads, head_dim, d_ff = SHAPES[shape]
    model = ModelConfig(
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=vocabulary,
        scan_layers=False,
    )
    params = transformer.init_params(model, 0)
    params["layers"] = jax.tree.map(lambda x: x * 2, params["layers"])
    # Bytes, which make bad UTF-8 of a text, are never the likeliest: two decoders write it as two.
    params["embed"] = params["embed"].at[:260].set(0)
    save_params(folder / "run", params)
    experiment = Experiment(model=model, data=DataConfig(sequence_length=CONTEXT))
    (folder / "run" / "config.json").write_text(to_json(experiment))
    writer = Writer(1)
    train_tokenizer((writer(200) for _ in range(2000)), vocabulary, folder / "run" / "tokenizer")


class Writer:
    """Sentences of made-up words, few of them frequent."""

    def __init__(self, seed: int):
        made = random.Random(0)
        parts = [c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s")]
        self._words = ["".join(made.choices(parts, k=made.randint(1, 3))) for _ in range(20_000)]
        self._rarity = []
        total = 0.0
        for rank in range(len(self._words)):
            total += 1 / (rank + 10)
            self._rarity.append(total)
        self._chance = random.Random(seed)

    def __call__(self, least: int, most: int | None = None) -> str:
        count = self._chance.randint(least, most or least)
        words = self._chance.choices(self._words, cum_weights=self._rarity, k=count)
        ends = self._chance.choices(("", ",", "."), weights=(12, 1, 1), k=count - 1)
        return " ".join(word + end for word, end in zip(words, [*ends, ""], strict=True))


def workloads(questions: int) -> dict[str, Requests]:
    write = Writer(2)
    choice, support, examples, word, rolling, texts = ([] for _ in range(6))
    for _ in range(questions):
        asked = f"Question: {write(12, 35)}?\nAnswer:"
        choice += [(asked, f" {write(1, 8)}") for _ in range(4)]
        asked = f"{write(60, 140)}.\nQuestion: {write(8, 20)}?\nAnswer:"
        support += [(asked, f" {write(1, 3)}") for _ in range(4)]
        word.append((write(50, 90), f" {write(1)}"))
        shot = f"Question: {write(8, 20)}?\nAnswer: {write(2)}\n\n"
        texts.append((f"{shot}Question: {write(8, 20)}?\nAnswer:", UNTIL))
    for _ in range(-(-questions // 16)):  # subjects
        shots = "".join(f"{lettered(write)} {letter}\n\n" for letter in "BADCA")
        for _ in range(min(questions, 16)):
            examples += [(shots + lettered(write), f" {letter}") for letter in "ABCD"]
        rolling += [(write(200, 700),) for _ in range(6)]
    scored = {"choice": choice, "support": support, "examples": examples, "word": word}
    return {
        **{name: ("loglikelihood", requests) for name, requests in scored.items()},
        "rolling": ("loglikelihood_rolling", rolling),
        "texts": ("generate_until", texts),
    }


def lettered(write: Writer) -> str:
    return f"{write(8, 16)}?\n" + "".join(f"{c}. {write(1, 4)}\n" for c in "ABCD") + "Answer:"


if __name__ == "__main__":
    cli.use_huge_pages()
    main()
