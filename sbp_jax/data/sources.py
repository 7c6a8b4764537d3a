"""Corpora that are not the user's files: installed docstrings, Hugging Face data sets, seqio tasks.

The optional packages are imported where a corpus is opened or read, and again in each process that
reads: a shard carries names and numbers, no open data set.
"""

import ast
import importlib
import importlib.metadata
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbp_jax.data.corpus import Corpus, Document, OnBadRow, fingerprint
from sbp_jax.data.text_files import document_of
from sbp_jax.errors import UserError

LEAST_DOCSTRING = 200  # characters
SKIPPED = {"_vendor", "test", "tests"}


def docstrings() -> Corpus:
    """The docstrings of the standard library and all installed packages, one shard a package."""
    roots = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")]
    packages: dict[str, Path] = {}
    for root in roots:
        for path in sorted(root.iterdir()):
            name = path.stem if path.suffix == ".py" else path.name
            if (
                name.isidentifier()
                and name not in SKIPPED
                and (path.suffix == ".py" or path.is_dir())
            ):
                packages.setdefault(name, path)
    versions = sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions())
    shards = [DocstringShard(name, str(path)) for name, path in sorted(packages.items())]
    return Corpus(
        "docstrings", shards, fingerprint("docstrings", sys.version, versions, sorted(packages))
    )


@dataclass(frozen=True)
class DocstringShard:
    """One package's docstrings of 200 characters and more, each text once; nothing is imported.

    Two packages may still share a text: to know would take reading all of them first. Folders of
    tests, which hold little text, and copies of other packages, in folders named _vendor, are left
    out.
    """

    name: str
    path: str

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        seen = set()
        top = Path(self.path)
        for file in sorted(top.rglob("*.py")) if top.is_dir() else [top]:
            parts = file.relative_to(top.parent).with_suffix("").parts
            if not SKIPPED.isdisjoint(parts) or not file.is_file():
                continue
            try:
                with warnings.catch_warnings(action="ignore"):  # invalid escapes and the like
                    tree = ast.parse(file.read_bytes())
            except (SyntaxError, ValueError, RecursionError):
                continue  # templates and tests of tools are no Python; no fault of the user's
            module = ".".join(part for part in parts if part != "__init__")
            for name, text in _docstrings(tree, module):
                if len(text) >= LEAST_DOCSTRING and text not in seen:
                    seen.add(text)
                    yield Document(name, text, self.name)


def _docstrings(node: Any, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and not any("\ud800" <= c <= "\udfff" for c in text):
        yield name, text
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def hugging_face(spec: str, text_field: str) -> Corpus:
    """NAME, NAME:SPLIT or NAME:CONFIG:SPLIT; the split is train if none is given."""
    name, *rest = spec.split(":")
    if not name or len(rest) > 2:
        raise UserError(f"'hf:{spec}' is none of hf:NAME, hf:NAME:SPLIT, hf:NAME:CONFIG:SPLIT")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    count = _stream(name, config, split).num_shards
    shards = [
        HuggingFaceShard(
            f"{split}-{i:05d}-of-{count:05d}", name, config, split, i, count, text_field
        )
        for i in range(count)
    ]
    return Corpus(f"hf:{spec}", shards, fingerprint("hf", name, config, split, count, text_field))


def _stream(name: str, config: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError('hf: corpora need: pip install "sbp_jax[hf]"') from error
    try:
        return datasets.load_dataset(name, config, split=split, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"hf:{name}: config {config}, split {split}: cannot load: {reason}"
        ) from error


@dataclass(frozen=True)
class HuggingFaceShard:
    name: str
    dataset: str
    config: str | None
    split: str
    index: int
    count: int
    text_field: str

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        rows = _stream(self.dataset, self.config, self.split).shard(self.count, self.index)
        for number, row in enumerate(rows, 1):
            try:
                document = document_of(row, self.text_field, f"{self.name}:{number}")
            except UserError as error:
                on_bad_row(UserError(f"hf:{self.dataset}, {self.name}, row {number}: {error}"))
            else:
                yield document


def seqio_task(spec: str, text_field: str, seed: int) -> Corpus:
    """TASK or package.module:TASK, a task or a mixture; its train split."""
    module, _, name = spec.rpartition(":")
    task = _task(module, name)
    is_task = hasattr(task, "source")  # a mixture draws from several, in one stream
    files = list(task.source.list_shards("train")) if is_task else []
    count = max(len(files), 1)
    shards = [
        SeqioShard(f"{name}-{i:05d}-of-{count:05d}", module, name, i, count, text_field, seed)
        for i in range(count)
    ]
    return Corpus(f"seqio:{spec}", shards, fingerprint("seqio", spec, files, text_field, seed))


def _task(module: str, name: str) -> Any:
    try:
        import seqio
        import tensorflow as tf
    except ImportError as error:
        raise UserError('seqio: corpora need: pip install "sbp_jax[seqio]"') from error
    tf.config.set_visible_devices([], "GPU")  # or TensorFlow takes all of its memory
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(f"seqio:{module}:{name}: cannot import {module}: {error}") from error
    try:
        return seqio.get_mixture_or_task(name)
    except ValueError as error:
        raise UserError(
            f"seqio:{name}: no such task or mixture; "
            f"seqio:package.module:{name} imports the module that registers it"
        ) from error


@dataclass(frozen=True)
class SeqioShard:
    """A share of a task's examples, as text.

    The text is the field data.text_field if the task keeps one, or else inputs and targets, as they
    were before tokenization where the task kept that, decoded where not.
    """

    name: str
    module: str
    task: str
    index: int
    count: int
    text_field: str
    seed: int

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        import seqio

        task = _task(self.module, self.task)
        examples = task.get_dataset(
            sequence_length=None,
            split="train",
            shuffle=False,
            num_epochs=1,
            seed=self.seed,
            shard_info=seqio.ShardInfo(self.index, self.count),
        )
        for number, example in enumerate(examples.as_numpy_iterator(), 1):
            try:
                document = document_of(self._row(example, task), "text", f"{self.name}:{number}")
            except (UnicodeDecodeError, UserError) as error:
                on_bad_row(UserError(f"seqio:{self.task}, {self.name}, example {number}: {error}"))
            else:
                yield document

    def _row(self, example: dict[str, Any], task: Any) -> dict[str, str]:
        if self.text_field in example:
            return {"text": example[self.text_field].decode()}
        parts = []
        for feature in ("inputs", "targets"):
            if f"{feature}_pretokenized" in example:
                parts.append(example[f"{feature}_pretokenized"].decode())
            elif feature in example:
                vocabulary = task.output_features[feature].vocabulary
                parts.append(vocabulary.decode(example[feature].tolist()))
        return {"text": "\n".join(part for part in parts if part)}
