"""What an experiment will take before anything runs: time, chips, money, checkpoints, disks.

    python -m sbp_jax.plan --config=configs/1t_6b.py --topology=v5p:8x8x8 --unique_tokens=50e9
    python -m sbp_jax.plan --config=configs/1t_6b.py --topology=v5p:8x8x8 --mfu=0.5 --price=2 --json
    python -m sbp_jax.plan --config=configs/gpu.py --topology=h100:1 --mfu=0.25 --draw_rate=50000

All of it is computed. Training, embedding, the search of neighbours and the reading of prompts take
their model FLOPs at --mfu of the chips' peak. Drawing tokens waits for memory: a step reads the
weights once, and every row's keys and values, at --memory of what the chips' memory gives; or give
a measured --draw_rate. Answers are as long as documents, --kept of their tokens pass the filters.
Stages follow one another, each on all of its chips. Prices are yours; 0 leaves them out.

--hours, of all trainings or of one as somebody reports them, come back as the MFU that they imply.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags

from sbp_jax import files
from sbp_jax.config import Experiment, ModelConfig, PairingConfig, SynthesisConfig, TuningConfig
from sbp_jax.data.tokens import CHUNK_TOKENS, TokenStore, token_dtype
from sbp_jax.errors import UserError
from sbp_jax.synthesis.arms import ARMS, grid
from sbp_jax.topology import Topology, parse
from sbp_jax.training.flops import PEAK_FLOPS, flops_per_token, matmul_params
from sbp_jax.training.step import state_shapes

_share: dict[str, Any] = {"lower_bound": 0.001, "upper_bound": 1.0}
_from_0: dict[str, Any] = {"lower_bound": 0.0}
TOPOLOGY = flags.DEFINE_string("topology", "", "Chips by torus or number: v5p:8x8x8, h100:64.")
DRAWING = flags.DEFINE_string(
    "synthesis_topology", "", "Those that draw tokens, if they are others."
)
MFU = flags.DEFINE_float("mfu", 0.45, "Model FLOPs over the chips' peak.", **_share)
MEMORY = flags.DEFINE_float("memory", 0.5, "Share of the memory's bandwidth, drawing.", **_share)
DRAW_RATE = flags.DEFINE_float(
    "draw_rate", 0.0, "Tokens a second that a chip draws, where it was measured.", **_from_0
)
PRICE = flags.DEFINE_float("price", 0.0, "Of an hour of a chip.", **_from_0)
DRAWING_PRICE = flags.DEFINE_float(
    "synthesis_price", None, "Of an hour of a chip of --synthesis_topology.", **_from_0
)
UNIQUE = flags.DEFINE_float("unique_tokens", 0.0, "Of the corpus.", **_from_0)
DOCUMENT = flags.DEFINE_float(
    "document_tokens", 0.0, "Of a document; 828 as in DCLM, 80 in the toy world.", **_from_0
)
KEPT = flags.DEFINE_float("kept", 0.8, "Share of drawn tokens that the filters keep.", **_share)
HOURS = flags.DEFINE_float("hours", 0.0, "Chip-hours that somebody reports.", **_from_0)
JSON = flags.DEFINE_bool("json", False, "Print one JSON object, and no tables.")

TEXT_BYTES = 4.4  # of a token of English under a vocabulary of 49,152: our assumption
QWEN3_EMBEDDING = ModelConfig(  # 0.6B
    num_layers=28, d_model=1024, num_heads=16, num_kv_heads=8, head_dim=128, d_ff=3072,
    vocab_size=151_669,
)  # fmt: skip


def main() -> None:
    plan = make_plan(cli.experiment())
    print(json.dumps(plan) if JSON.value else tables(plan))


def make_plan(e: Experiment) -> dict[str, Any]:
    """What the tables show, in seconds, bytes and tokens."""
    chips = parse(TOPOLOGY.value)
    drawing = parse(DRAWING.value, "--synthesis_topology") if DRAWING.value else chips
    corpus = corpus_of(e)
    stages = list(stages_of(e, corpus, chips, drawing))
    saved = checkpoints(e, chips)
    return {
        "assumptions": assumptions(chips, drawing),
        "corpus": corpus.record(),
        "stages": [stage.record() for stage in stages],
        "training": training(e, chips, stages),
        "checkpoints": saved,
        "input": input_of_a_host(e, chips),
        "storage": storage(e, corpus, stages, saved),
    }


# What there is to read.


@dataclasses.dataclass(frozen=True)
class Corpus:
    tokens: float
    document_tokens: float
    known_from: str

    @property
    def documents(self) -> float:
        return self.tokens / self.document_tokens

    def record(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"documents": self.documents}


def corpus_of(e: Experiment) -> Corpus:
    """As given, else as it is there, else as large as the config needs it."""
    toy = e.data.input.startswith("toyworld")
    document = DOCUMENT.value or (80.0 if toy else 828.0)
    if UNIQUE.value:
        return Corpus(UNIQUE.value, document, "--unique_tokens")
    if files.manifest_kind(e.data.input) == "tokens":
        store = TokenStore(e.data.input)
        tokens = store.num_training_tokens
        return Corpus(tokens, store.num_tokens / store.num_documents, f"{e.data.input}, a store")
    if toy:
        return Corpus(e.toyworld.documents * document, document, "config.toyworld.documents")
    if bootstraps(e):
        needed = drawn_tokens(e) / e.synthesis.per_document
        return Corpus(needed, document, "what the synthetic share needs, without --unique_tokens")
    return Corpus(e.train.tokens, document, "train.tokens at most, without --unique_tokens")


def bootstraps(e: Experiment) -> bool:
    """Whether the file is about more than one training."""
    sections = (e.pairing, e.tuning, e.synthesis)
    return sections != (PairingConfig(), TuningConfig(), SynthesisConfig())


def drawn_tokens(e: Experiment) -> float:
    """Of which as many are kept as the arm wants."""
    return e.arms.synthetic_share * e.train.tokens / KEPT.value


# A row a stage.


@dataclasses.dataclass(frozen=True)
class Stage:
    name: str
    tokens: float
    flops: float
    seconds: float
    topology: Topology
    price: float  # of an hour of a chip
    steps: int = 0  # of the optimizer

    @property
    def chip_hours(self) -> float:
        return self.seconds * self.topology.chips / 3600

    def record(self) -> dict[str, Any]:
        fields = {k: getattr(self, k) for k in ("name", "steps", "tokens", "flops", "seconds")}
        price = self.chip_hours * self.price
        return fields | {
            "chip": self.topology.name, "chip_hours": self.chip_hours, "price": price
        }  # fmt: skip


def stages_of(e: Experiment, corpus: Corpus, chips: Topology, drawing: Topology) -> Iterator[Stage]:
    """In the order in which they run; an arm is one training, a tuned one its whole grid."""
    per_token = flops_per_token(e.model, e.data.sequence_length)
    rate, unique, p = peak(chips) * chips.chips * MFU.value, corpus.documents, e.pairing

    def computed(name: str, tokens: float, flops: float, steps: int = 0) -> Stage:
        return Stage(name, tokens, flops, flops / rate, chips, PRICE.value, steps)

    def trained(name: str, tokens: float, batch: int) -> Stage:
        steps = math.ceil(tokens / (batch * e.data.sequence_length))
        return computed(name, tokens, tokens * per_token, steps)

    def synthesizer(suffix: str = "", reads: bool = True) -> Iterator[Stage]:
        if reads:  # else the baseline writes as it is, and for no document
            yield trained(f"tuning{suffix}", e.tuning.tokens, e.tuning.batch_size)
        yield synthesized(e, corpus, drawing, f"synthesis{suffix}", reads)

    if not bootstraps(e):
        yield trained("training", e.train.tokens, e.train.batch_size)
        return
    asked = [name.strip() for name in e.arms.run.split(",")]
    if unknown := [name for name in asked if name not in ARMS]:
        raise UserError(f"config.arms.run: {unknown[0]!r} is no arm; there are: {', '.join(ARMS)}")
    made: set[str] = set()
    beside = 0.0  # FLOPs of what SBP does before its training
    for name, arm in ((name, arm) for name, arm in ARMS.items() if name in asked):
        if arm.synthetic and not made and arm.synthetic != "unconditional":
            seen = min(corpus.document_tokens, p.max_tokens) * unique
            if p.embedder != "lexical":  # which has no model, and runs on CPUs
                yield (row := computed("embedding", seen, seen * embedding_flops(e, corpus)))
                beside += row.flops
            width = e.model.d_model if p.embedder == "self" else p.dimensions
            yield (row := computed("neighbours", 0, 2.0 * unique**2 * width))
            beside += row.flops
        if arm.synthetic and arm.synthetic not in made:
            made.add(arm.synthetic)
            suffix = "" if arm.synthetic == "sbp" else f" ({arm.synthetic})"
            for row in synthesizer(suffix, arm.synthetic != "unconditional"):
                beside += row.flops if arm.synthetic == "sbp" else 0
                yield row
        times = len(grid(e)) if arm.tuned else 1
        tokens = e.train.tokens * times + (beside / per_token if arm.longer else 0)
        yield trained(f"training: {name}", tokens, e.train.batch_size)
    for number in range(2, e.rounds + 1):
        yield from synthesizer(f", round {number}")
        yield trained(f"training: sbp, round {number}", e.train.tokens, e.train.batch_size)


def synthesized(e: Experiment, corpus: Corpus, chips: Topology, name: str, reads: bool) -> Stage:
    """Prompts are read, each for each of its answers; tokens are drawn in rows that are all full,
    each half-way through its answer.
    """
    m, prompt = e.model, corpus.document_tokens if reads else 0.0
    answer = min(corpus.document_tokens, e.synthesis.max_tokens)
    answers = corpus.documents * e.synthesis.per_document
    # bfloat16 keys and values of a row
    row = 2 * 2 * m.num_layers * m.num_kv_heads * m.head_dim * (prompt + answer / 2)
    read = 2 * matmul_params(m) + e.engine.batch_size * row  # bytes a step
    steps = chips.chip.bandwidth * MEMORY.value / read  # a second
    draws = DRAW_RATE.value or e.engine.batch_size * steps
    of_prompts, of_answers = (2.0 * matmul_params(m) * answers * n for n in (prompt, answer))
    seconds = of_prompts / (peak(chips) * MFU.value) + answers * answer / draws
    price = PRICE.value if DRAWING_PRICE.value is None else DRAWING_PRICE.value
    flops = of_prompts + of_answers
    return Stage(name, answers * answer, flops, seconds / chips.chips, chips, price)


def embedding_flops(e: Experiment, corpus: Corpus) -> float:
    """Of a token: forward, without the logits."""
    model = e.model if e.pairing.embedder == "self" else QWEN3_EMBEDDING
    length = int(min(corpus.document_tokens, e.pairing.max_tokens))
    return flops_per_token(model, length) / 3 - 2 * model.d_model * model.vocab_size


def peak(topology: Topology) -> float:
    kind = topology.chip.device_kind
    if kind not in PEAK_FLOPS:
        raise UserError(f"{topology.name}: its peak is not in sbp_jax/training/flops.py; add it")
    return PEAK_FLOPS[kind]


def assumptions(chips: Topology, drawing: Topology) -> dict[str, Any]:
    return {
        "topology": TOPOLOGY.value,
        "synthesis_topology": DRAWING.value or TOPOLOGY.value,
        "chips": chips.chips,
        "hosts": chips.hosts,
        "mfu": MFU.value,
        "memory": MEMORY.value,
        "draw_rate": DRAW_RATE.value,
        "kept": KEPT.value,
    }


# What a training asks of its surroundings.


def training(e: Experiment, chips: Topology, stages: list[Stage]) -> dict[str, Any]:
    seconds = step_seconds(e, chips)
    trainings = [s for s in stages if s.name.startswith("training")]
    found: dict[str, Any] = {
        "steps": e.num_steps,
        "tokens_per_step": e.tokens_per_step,
        "step_s": seconds,
        "tokens_per_s": e.tokens_per_step / seconds,
    }
    if HOURS.value:
        given = HOURS.value * 3600 * peak(chips)
        one, every = trainings[0].flops, sum(s.flops for s in trainings)
        found["reported"] = {
            "chip_hours": HOURS.value, "mfu_of_one": one / given,
            "mfu_of_all": every / given, "trainings": len(trainings),
        }  # fmt: skip
    return found


def checkpoints(e: Experiment, chips: Topology) -> dict[str, Any]:
    """float32 parameters and the optimizer's state, which hardly compress."""
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state_shapes(e)))
    c, step_s = e.checkpoint, step_seconds(e, chips)
    for_good = e.num_steps // c.keep_every_steps if c.keep_every_steps else 0
    return {
        "bytes": size,
        "bytes_per_host": size / chips.hosts,
        "every_steps": c.every_steps,
        "every_s": c.every_steps * step_s,
        "written": math.ceil(e.num_steps / c.every_steps),
        "kept": min(c.keep + for_good, math.ceil(e.num_steps / c.every_steps)),
    }


def step_seconds(e: Experiment, chips: Topology) -> float:
    flops = flops_per_token(e.model, e.data.sequence_length) * e.tokens_per_step
    return flops / (peak(chips) * chips.chips * MFU.value)


def input_of_a_host(e: Experiment, chips: Topology) -> dict[str, Any]:
    """A window stands anywhere on the tape, and comes with all chunks that it touches."""
    length = e.data.sequence_length + 1
    together = e.mesh.tensor * e.mesh.context  # chips that share their rows
    seen = max(chips.chip.per_host, together) / chips.chips  # share of the rows
    rows = e.train.batch_size * min(1.0, seen)
    chunks = 1 + (length - 1) / CHUNK_TOKENS  # on average
    chunk_bytes = CHUNK_TOKENS * token_bytes(e)
    seconds = step_seconds(e, chips)
    return {
        "rows_per_step": rows,
        "tokens_per_s": rows * length / seconds,
        "reads_per_s": rows * chunks / seconds,
        "bytes_per_s": rows * chunks * chunk_bytes / seconds,
    }


def token_bytes(e: Experiment) -> int:
    return {"uint16": 2, "uint32": 4}[token_dtype(e.model.vocab_size)]


def storage(
    e: Experiment, corpus: Corpus, stages: list[Stage], saved: dict[str, Any]
) -> dict[str, float]:
    """Bytes of each thing that stays, none of them compressed."""
    ids, text = token_bytes(e), corpus.tokens * TEXT_BYTES
    found = {"corpus": text, "its token store": corpus.tokens * ids + 8 * corpus.documents}
    names = [stage.name for stage in stages]
    if "training: oracle" in names:
        found["oracle's corpus and store, at most"] = e.train.tokens * (TEXT_BYTES + ids)
    if "neighbours" in names:
        width = e.model.d_model if e.pairing.embedder == "self" else e.pairing.dimensions
        found["documents, vectors, neighbours"] = text + corpus.documents * (
            4 * width + 12 * e.pairing.neighbors
        )
        found["pairs, packed"] = e.tuning.tokens * (ids + 1)  # and a mark
    drawn = sum(stage.tokens for stage in stages if stage.name.startswith("synthesis"))
    if drawn:
        found["answers"] = drawn * TEXT_BYTES
        found["kept answers and their store"] = drawn * KEPT.value * (TEXT_BYTES + ids)
    trainings = sum(name.startswith("training") for name in names)
    tunings = sum(name.startswith("tuning") for name in names)
    steps = e.tuning.tokens / (e.tuning.batch_size * e.data.sequence_length)
    kept = trainings * saved["kept"] + tunings * math.ceil(steps / e.tuning.every_steps)
    found[f"{kept} checkpoints"] = kept * saved["bytes"]
    return found


# As tables.


def tables(plan: dict[str, Any]) -> str:
    a, c, t = plan["assumptions"], plan["corpus"], plan["training"]
    k, i = plan["checkpoints"], plan["input"]
    lines = [
        "| stage | steps | tokens | FLOPs | time | chip-hours | price |",
        "|---|" + "---:|" * 6,
    ]
    for s in plan["stages"]:
        steps, tokens, price = (
            form(s[key]) if s[key] else ""
            for key, form in (("steps", whole), ("tokens", short), ("price", whole))
        )
        lines.append(
            f"| {s['name']} | {steps} | {tokens} | {s['flops']:.1e} | "
            f"{duration(s['seconds'])} | "
            f"{s['chip_hours']:,.1f} {s['chip']} | {price} |"
        )
    total = {key: sum(s[key] for s in plan["stages"]) for key in ("flops", "seconds", "price")}
    hours = {s["chip"]: 0.0 for s in plan["stages"]}
    for s in plan["stages"]:
        hours[s["chip"]] += s["chip_hours"]
    spent = " + ".join(f"{n:,.1f} {chip}" for chip, n in hours.items())
    price = whole(total["price"]) if total["price"] else ""
    took = duration(total["seconds"])
    lines += [f"| all | | | {total['flops']:.1e} | {took} | {spent} | {price} |", ""]
    trained = sum(s["flops"] for s in plan["stages"] if s["name"].startswith("training"))
    first = next(s["flops"] for s in plan["stages"] if s["name"].startswith("training"))
    lines += [
        f"{a['topology']}: {a['chips']:,} chips on {a['hosts']:,} hosts, an MFU of {a['mfu']:.0%}. "
        f"Corpus: {short(c['tokens'])} tokens in {short(c['documents'])} documents "
        f"({c['known_from']}). What is not training takes "
        f"{(total['flops'] - trained) / first:.0%} of one training's FLOPs.",
    ]
    if r := t.get("reported"):
        lines += [
            f"{r['chip_hours']:,.0f} chip-hours are an MFU of {r['mfu_of_one']:.0%} for one "
            f"training, {r['mfu_of_all']:.0%} if they hold all {r['trainings']}."
        ]
    lines += [
        "",
        "| a training | |",
        "|---|---|",
        f"| step | {t['tokens_per_step']:,} tokens in {t['step_s']:.3g} s: "
        f"{short(t['tokens_per_s'])} tokens/s |",
        f"| checkpoint | {size(k['bytes'])}, {size(k['bytes_per_host'])} a host; every "
        f"{k['every_steps']:,} steps, {duration(k['every_s'])}: {k['written']:,} written, "
        f"{k['kept']:,} kept |",
        f"| input of a host | {i['rows_per_step']:g} rows a step: {short(i['tokens_per_s'])} "
        f"tokens/s, {i['reads_per_s']:.3g} reads/s, {size(i['bytes_per_s'])}/s |",
        "",
        "| on disks | |",
        "|---|---:|",
        *(f"| {name} | {size(n)} |" for name, n in plan["storage"].items()),
        f"| all | {size(sum(plan['storage'].values()))} |",
    ]
    return "\n".join(lines)


def scaled(n: float, units: dict[str, float]) -> str:
    unit = next((unit for unit, factor in units.items() if n >= factor), [*units][-1])
    part = n / units[unit]
    return (f"{part:.3g}" if part < 999.5 else f"{part:,.0f}") + unit


def whole(n: float) -> str:
    return f"{n:,.0f}"


def short(n: float) -> str:
    return scaled(n, {"T": 1e12, "B": 1e9, "M": 1e6, "K": 1e3, "": 1})


def size(n: float) -> str:
    return scaled(n, {" TB": 1e12, " GB": 1e9, " MB": 1e6, " kB": 1e3, " B": 1})


def duration(seconds: float) -> str:
    return scaled(seconds, {" days": 86400, " hours": 3600, " minutes": 60, " s": 1})


if __name__ == "__main__":
    cli.run(main, needs=("config", "topology"))
