"""From a checkpoint to a store of synthetic documents: pair, tune, synthesize, tokenize.

Each stage ends with a record beside its folder, and is not looked at again where that is: what it
found, and the seconds of the attempt that ended it.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import load_tokenizer
from sbp_jax.data.tokens import TokenStore
from sbp_jax.inference.engine import EngineOpener
from sbp_jax.pairing.embed import find_neighbors
from sbp_jax.pairing.pairs import write_pairs
from sbp_jax.synthesis.arms import Data
from sbp_jax.synthesis.documents import synthesize
from sbp_jax.synthesis.tuning import tune
from sbp_jax.tokenize import prepare_store
from sbp_jax.training.checkpoint import run_config
from sbp_jax.training.flops import flops_per_token, matmul_params

MARGIN = 0.02  # of synthetic tokens: windows are cut from the tape, and their number is whole


class Stage(NamedTuple):
    name: str
    flops: float
    wall_s: float
    found: dict[str, Any]  # what the stage says of itself
    place: str  # of its record


def synthetic_store(
    experiment: Experiment,
    source: str,
    data: Data,
    checkpoint: Path,
    folder: Path,
    engine: str,
    synthesizer: Path,
) -> tuple[TokenStore, list[Stage]]:
    """`source` is sbp, or the control that it names; `checkpoint` the run that becomes the
    synthesizer. Pairs and synthesizer lie in the folder `synthesizer`, the documents in `folder`.
    """
    e, chosen = experiment, str(checkpoint)
    stages: list[Stage] = []
    conditional = source != "unconditional"
    if conditional:
        pairing = dataclasses.replace(e.pairing, random_pairs=source == "random_pairs")
        paired = dataclasses.replace(e, pairing=pairing)
        stages.append(pair(paired, data, chosen, synthesizer))
        stages.append(tuning(e, chosen, synthesizer))
        chosen = stages[-1].found["checkpoint"]
    stages.append(write(e, data, chosen, folder, engine, conditional))
    store = prepare_store(str(folder / "kept"), folder / "store", e, data.tokenizer, held_out=0.0)
    return store, stages


def pair(experiment: Experiment, data: Data, checkpoint: str, folder: Path) -> Stage:
    e, pairing = experiment, experiment.pairing
    own = pairing.embedder == "self"
    # Filters, and so random pairs and thresholds, do not change whose neighbours are whose.
    fields = [pairing.embedder, pairing.model, pairing.engine, pairing.neighbors]
    fields += [pairing.dimensions, pairing.max_tokens]
    name = f"neighbors-{files.sha256(json.dumps(fields).encode())[:8]}"
    neighbors = (folder if own else data.folder) / name

    def work() -> dict[str, Any]:
        find_neighbors(data.everything, e, neighbors, checkpoint if own else None)
        return write_pairs(neighbors, e, folder / "pairs")

    found, wall = _once(folder / "pair.json", work, folder / "pairs")
    width, embedding = pairing.dimensions, 0.0
    if pairing.embedder != "lexical":
        model = e.model if own else run_config(pairing.model).model
        tokens = data.train.num_tokens + data.validation.num_tokens
        embedding = 2.0 * (matmul_params(model) - model.d_model * model.vocab_size) * tokens
        width = model.d_model
    search = float(found["documents"]) ** 2 * width  # half of the square, 2 each
    return Stage("pair", search + embedding, wall, found, str(folder / "pair.json"))


def tuning(experiment: Experiment, checkpoint: str, folder: Path) -> Stage:
    e = experiment
    found, wall = _once(
        folder / "tune.json",
        lambda: tune(e, folder / "pairs", checkpoint, folder / "synthesizer"),
    )
    flops = e.tuning.tokens * flops_per_token(e.model, e.data.sequence_length)
    return Stage("tune", flops, wall, found, str(folder / "tune.json"))


def write(
    experiment: Experiment,
    data: Data,
    checkpoint: str,
    folder: Path,
    engine: str,
    conditional: bool,
) -> Stage:
    e = experiment
    opener = EngineOpener(engine, e, checkpoint, str(folder / "model"))
    needed = math.ceil(e.arms.synthetic_share * e.train.tokens * (1 + MARGIN))
    found, wall = _once(
        folder / "synthesize.json",
        lambda: synthesize(
            e,
            data.corpus,
            opener,
            folder,
            tokens=needed,
            tokenizer=load_tokenizer(data.tokenizer),
            conditional=conditional,
        ),
        folder / "kept",
    )
    read = found["prompt_tokens"] + found["drawn"]
    length = read / found["counts"]["answers"]
    flops = read * flops_per_token(e.model, length) / 3  # forward alone, at the mean length
    return Stage("synthesize", flops, wall, found, str(folder / "synthesize.json"))


def _once(
    record: Path, work: Callable[[], dict[str, Any]], result: Path | None = None
) -> tuple[dict[str, Any], float]:
    """What a stage said of itself when it ended, and the seconds that it took. It is done again
    where its `result`, a folder that is read later, has been deleted.
    """
    if not record.exists() or (result and not files.has_manifest(result)):
        start = time.monotonic()
        found = work()
        files.write_json(record, {"found": found, "wall_s": round(time.monotonic() - start, 1)})
    recorded = files.read_record(record, "found", "wall_s")
    return recorded["found"], recorded["wall_s"]
