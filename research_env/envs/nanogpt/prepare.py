"""Writes what nanogpt's runs read: shards to train on, and three splits for the harness alone.

    python -m research_env.envs.nanogpt.prepare
    python -m research_env.envs.nanogpt.prepare --size=full --tokens=STORE
    python -m research_env.envs.nanogpt.prepare --size=full --tokens=FOLDER

The laptop's candidates train on docstrings of installed packages, as bytes. They run where all
installed packages can be read, so what scores them has to come from elsewhere: from this project's
own docstrings and pages, which no sandbox holds. Those that score no one are the second shard.
For the full size, STORE is what sbp_jax.tokenize makes with GPT-2's tokenizer and data.held_out,
FOLDER holds FineWeb's *_train_*.bin and *_val_*.bin.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import ast
import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from sbp_jax import files
from sbp_jax.errors import UserError

SIZE = flags.DEFINE_enum("size", "laptop", ["laptop", "full"], "Which.", allow_override=True)
TOKENS = flags.DEFINE_string(
    "tokens", "", "For full: a store of tokens, or a folder of .bin shards.", allow_override=True
)
OUTPUT = flags.DEFINE_string("output", "", "Instead of beside env.toml.", allow_override=True)

ROOT = Path(__file__).parents[3]
OWN = ("sbp_jax", "entigraph", "research_env", "bench", "configs", "tests", "docs", "README.md")
PACKAGES = ("numpy", "jax")  # beside the standard library; few, for time
LEAST_CHARACTERS = 60  # of a held-out text
SPLITS = ("search", "selection", "final")
SHARD_TOKENS = 100_000_000
BIN_MAGIC, BIN_HEADER = 20240520, 256  # of FineWeb's .bin: int32s before the tokens


class Shape(NamedTuple):
    context: int
    rows: int  # of a split
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Of a split: a row has one more than the context, its last target."""
        return self.rows * (self.context + 1)


SHAPES = {"laptop": Shape(128, 256, 256), "full": Shape(1024, 1024, 50257)}


def main() -> None:
    size = SIZE.value
    output = Path(OUTPUT.value or Path(__file__).parent / "prepared" / size)
    if size == "laptop":
        own = tape(own_texts(ROOT))
        needed = len(SPLITS) * SHAPES[size].tokens
        rest = needed + int(np.argmin(own[needed:]))  # from the next text on
        held_out = own[:needed]
        training: Iterable[np.ndarray] = [tape(installed_texts(PACKAGES)), own[rest:]]
    elif TOKENS.value:
        training, held_out = open_tokens(Path(TOKENS.value))
    else:
        raise UserError(
            "--tokens is missing: a store that sbp_jax.tokenize made of FineWeb with GPT-2's "
            "tokenizer and data.held_out, or a folder of FineWeb's .bin shards"
        )
    write(output, training, held_out, SHAPES[size])
    print(f"{output}: shards to train on in data/, {', '.join(SPLITS)} in splits/")


def write(output: Path, training: Iterable[np.ndarray], held_out: np.ndarray, shape: Shape) -> None:
    """Splits are thirds of the held-out tape, cut into rows, from the first on."""
    third = len(held_out) // len(SPLITS)
    if third < shape.tokens:
        raise UserError(
            f"{len(held_out):,} held-out tokens are too few: "
            f"{len(SPLITS)} splits of {shape.tokens:,}"
        )
    for i, split in enumerate(SPLITS):
        part = held_out[i * third : (i + 1) * third]
        rows = part[: shape.tokens].reshape(
            shape.rows, -1
        )  # no row tells the last token of another
        _check(rows, shape.vocabulary, f"split {split}")
        _save(output / "splits" / split / "rows.npy", rows)
    count = 0
    for shard in training:
        for start in range(0, len(shard), SHARD_TOKENS):
            tokens = shard[start : start + SHARD_TOKENS]
            _check(tokens, shape.vocabulary, f"shard {count}")
            _save(output / "data" / f"train-{count:04d}.npy", tokens)
            count += 1
    for stale in list((output / "data").glob("train-*.npy")):
        if int(stale.stem.removeprefix("train-")) >= count:
            stale.unlink()


def installed_texts(packages: Iterable[str]) -> Iterator[str]:
    """Docstrings of the standard library and these packages; the candidates may read them all."""
    from sbp_jax.data.sources import docstrings

    wanted = set(packages) | sys.stdlib_module_names

    def on_bad_row(error: UserError) -> None:
        raise error

    for shard in docstrings().shards:
        if shard.name in wanted:
            for document in shard.read(on_bad_row):
                yield document.text


def own_texts(root: Path) -> Iterator[str]:
    """The docstrings of this project, and the sections of its pages."""
    if any(root.is_relative_to(Path(p).resolve()) for p in {sys.prefix, sys.base_prefix}):
        raise UserError(
            f"{root}: lies in the installed packages, which candidates can read: run this from a "
            "clone of the repository outside of the virtual environment"
        )
    for name in OWN:
        top = root / name
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.suffix == ".md":
                yield from re.split(r"\n(?=#)", path.read_text())
            elif path.suffix == ".py":
                for node in ast.walk(ast.parse(path.read_text())):
                    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                        yield ast.get_docstring(node) or ""


def tape(texts: Iterable[str]) -> np.ndarray:
    """Each text once, in the order of their hashes, as bytes, with a zero before each."""
    found = {hashlib.sha256(text.encode()).digest(): text for text in map(str.strip, texts)}
    kept = [found[key] for key in sorted(found) if len(found[key]) >= LEAST_CHARACTERS]
    joined = b"".join(b"\0" + text.replace("\0", "").encode() for text in kept)
    return np.frombuffer(joined, np.uint8).astype(np.uint16)


def open_tokens(place: Path) -> tuple[Iterable[np.ndarray], np.ndarray]:
    """What to train on, piece by piece, and the held-out tape."""
    if not place.is_dir():
        raise UserError(f"--tokens={place}: no such folder")
    if any(place.glob("*.bin")):
        found = {kind: sorted(place.glob(f"*_{kind}_*.bin")) for kind in ("train", "val")}
        for kind, paths in found.items():
            if not paths:
                raise UserError(f"{place}: holds no *_{kind}_*.bin")
        return map(read_bin, found["train"]), np.concatenate(list(map(read_bin, found["val"])))
    from sbp_jax.data.tokens import TokenStore

    store = TokenStore(place)
    border, end = store.num_training_tokens, store.num_tokens
    pieces = range(0, border, SHARD_TOKENS)
    training = (store.read(at, min(at + SHARD_TOKENS, border)) for at in pieces)
    return training, store.read(border, end)


def read_bin(path: Path) -> np.ndarray:
    header = np.fromfile(path, "<i4", BIN_HEADER)
    if len(header) < BIN_HEADER or header[0] != BIN_MAGIC:
        raise UserError(f"{path}: not a shard of FineWeb: it must begin with {BIN_MAGIC}")
    tokens = np.memmap(path, "<u2", mode="r", offset=4 * BIN_HEADER)
    if len(tokens) != header[2]:
        raise UserError(f"{path}: holds {len(tokens)} tokens, its header says {header[2]}")
    return tokens


def _check(tokens: np.ndarray, vocabulary: int, what: str) -> None:
    if (most := int(tokens.max())) >= vocabulary:
        raise UserError(f"{what}: token {most} is not below {vocabulary}: another tokenizer's")


def _save(path: Path, array: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array, dtype="<u2"))
    files.write_bytes(path, file.getvalue())


if __name__ == "__main__":
    cli.run(main, needs=())
