"""The user's own files as documents: JSON lines, Parquet and text, packed or not, read as streams.

A malformed row costs itself and no other: it is reported with file, line and reason, and what can
be read goes on. What is wrong with the disk or the network is never counted as a bad row.
"""

import codecs
import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from sbp_jax.data.corpus import ROW_GROUP, Corpus, Document, OnBadRow, fingerprint
from sbp_jax.errors import UserError
from sbp_jax.files import MANIFEST

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
JSON_LINES = tuple(kind + packed for kind in (".jsonl", ".json") for packed in ("", *COMPRESSION))
READABLE = (".parquet", *JSON_LINES, ".txt", ".md")

LONG_TEXT = 64 * 1024  # bytes; a longer text file is a book, and cut
LEAST_CUT = 4_000  # bytes; about a thousand tokens
BLANK_LINES = re.compile(rb"\n\s*\n")
LAST_PLACES = (  # to cut where no line is blank, best first; Chinese and Japanese have no spaces
    re.compile(rb"(?s).*\n"),
    re.compile(rb"(?s).*(?:[.!?]\s|%s)" % b"|".join(c.encode() for c in "。！？")),
    re.compile(rb"(?s).*\s"),
)


def open_files(spec: str, text_field: str) -> Corpus:
    """The readable files that a path means: itself, all below a folder, all that match a glob."""
    path = epath.Path(spec)
    if path.is_dir():
        root, found = path, [parent / name for parent, _, names in path.walk() for name in names]
    elif path.exists():
        root, found = path.parent, [path]
    elif any(c in spec for c in "*?["):
        fixed = next(i for i, part in enumerate(path.parts) if any(c in part for c in "*?["))
        root = epath.Path(*path.parts[:fixed])
        if "://" in spec:  # where epath refuses **
            found = list(root.glob("/".join(path.parts[fixed:])))
        else:
            matches = glob.glob(spec, recursive=True)
            found = [epath.Path(name) for name in matches if os.path.isfile(name)]
    else:
        raise UserError(
            f"{spec}: no such file or folder; "
            "data.input also takes a glob, toyworld, docstrings, hf:NAME, seqio:TASK"
        )
    names = sorted(
        name
        for name in (p.relative_to(root).as_posix() for p in found)
        if name.lower().endswith(READABLE)
        and not any(part.startswith(".") for part in name.split("/"))
        and not (path.is_dir() and name.split("/")[-1] == MANIFEST)  # which is about texts
    )
    if path.is_dir() and any(name.lower().endswith(".parquet") for name in names):
        raise UserError(
            f"{spec}: holds Parquet files but no {MANIFEST} of a finished corpus: run the command "
            "that writes it again; or if they come from elsewhere, name them with a glob: "
            f"'{spec}/*.parquet'"
        )
    if not names:
        raise UserError(f"{spec}: nothing to read there: files must end in {', '.join(READABLE)}")
    with ThreadPoolExecutor(32) as pool:  # object storage answers slowly, but many at a time
        sizes = list(pool.map(lambda name: file_size(root / name), names))
    shards = [FileShard(name, str(root / name), text_field) for name in names]
    return Corpus(spec, shards, fingerprint("files", text_field, names, sizes))


def file_size(path: epath.Path) -> int:
    """Not by `path.stat()`, which fails where the owner of a file has no name on this machine."""
    try:
        with path.open("rb") as stream:
            return stream.seek(0, io.SEEK_END) or stream.tell()
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error


@dataclass(frozen=True)
class FileShard:
    """One file: Parquet, JSON lines (plain, gzip or zstd), or text.

    A text file is one document. One of more than 64 KiB is cut at blank lines into documents of at
    least 4,000 bytes (the last one may be shorter). Where 64 KiB pass without a blank line, it is
    cut at the last line end in them, or else after the last sentence, at the last space, between
    the last two characters. A document is named by the line it begins in, and by the byte of that
    line if it begins in the middle: `book.txt:17`, `book.txt:17:65531`.
    """

    name: str
    path: str
    text_field: str = "text"
    rows: int = -1  # that a manifest promises

    def read(self, on_bad_row: OnBadRow) -> Iterator[Document]:
        path = epath.Path(self.path)
        read = self._read_text
        if self.name.lower().endswith(".parquet"):
            read = self._read_parquet
        elif self.name.lower().endswith(JSON_LINES):
            read = self._read_json_lines
        try:
            if file_size(path) == 0:
                on_bad_row(UserError(f"{path}: file is empty"))
                return
            yield from read(path, on_bad_row)
        except OSError as error:
            if error.errno:  # the disk's or the network's fault, so no reason to skip the file
                raise UserError(f"{path}: cannot read: {error.strerror}") from error
            on_bad_row(UserError(f"{path}: damaged, the rest of it cannot be read: {error}"))
        except pa.ArrowException as error:
            on_bad_row(UserError(f"{path}: damaged, cannot be read as Parquet: {error}"))

    def _read_json_lines(self, path: epath.Path, on_bad_row: OnBadRow) -> Iterator[Document]:
        for number, line in enumerate(_lines(path), 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)  # Windows writes it
            if not line.strip():
                continue
            try:
                row = json.loads(line.rstrip().decode())
                document = document_of(row, self.text_field, f"{self.name}:{number}")
            except (ValueError, RecursionError) as error:
                on_bad_row(UserError(f"{path}:{number}: {_reason(error)}"))
            else:
                yield document

    def _read_parquet(self, path: epath.Path, on_bad_row: OnBadRow) -> Iterator[Document]:
        with path.open("rb") as stream:
            table = pq.ParquetFile(stream)
            if self.rows not in (-1, table.metadata.num_rows):
                raise UserError(
                    f"{path}: {table.metadata.num_rows} rows, its manifest says {self.rows}: "
                    "make the corpus again"
                )
            names = table.schema_arrow.names
            if self.text_field not in names:
                on_bad_row(UserError(f"{path}: {_no_field(self.text_field, names)}"))
                return
            wanted = {self.text_field, "id", "url", "source", "meta", "metadata"}
            columns = [name for name in names if name in wanted]
            number = 0
            for batch in table.iter_batches(ROW_GROUP, columns=columns):
                for values in zip(*map(_undecoded, batch.columns), strict=True):
                    number += 1
                    try:
                        row = {
                            name: value.decode() if isinstance(value, bytes) else value
                            for name, value in zip(batch.schema.names, values, strict=True)
                        }
                        document = document_of(row, self.text_field, f"{self.name}:{number}")
                    except ValueError as error:
                        on_bad_row(UserError(f"{path}:{number}: {_reason(error)}"))
                    else:
                        yield document

    def _read_text(self, path: epath.Path, on_bad_row: OnBadRow) -> Iterator[Document]:
        cut = file_size(path) > LONG_TEXT
        for line, byte, piece in _text_pieces(path) if cut else [(1, 1, path.read_bytes())]:
            where = f":{line}" if byte == 1 else f":{line}:{byte}"
            try:
                text = piece.decode("utf-8-sig").strip("\r\n")
                name = f"{self.name}{where}" if cut else self.name
                document = document_of({"text": text}, "text", name)
            except UnicodeDecodeError as error:
                line += piece.count(b"\n", 0, error.start)
                on_bad_row(UserError(f"{path}:{line}: {_reason(error)}"))
            except UserError as error:
                on_bad_row(UserError(f"{path}{where}: {error}"))
            else:
                yield document


def document_of(row: Any, text_field: str, default_id: str) -> Document:
    """The document that a row of any data set means; `UserError` gives the reason alone.

    The id is the WARC record id in DCLM's metadata, or the field id or url, or else the default.
    Fields with no place of their own go to meta.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"a JSON object is expected on each line, not {type(row).__name__}")
    if text_field not in row:
        raise UserError(_no_field(text_field, row))
    text = row[text_field]
    if not isinstance(text, str):
        raise UserError(f"field {text_field!r} is {type(text).__name__}, not text")
    if not text.strip():
        raise UserError(f"field {text_field!r} is empty")
    if not text.strip("\0"):
        raise UserError(f"field {text_field!r} holds NUL characters only: not a text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise UserError(
                f"not valid Unicode: {error.reason} at character {error.start}"
            ) from error
    metadata = row.get("metadata")
    record = metadata.get("WARC-Record-ID") if isinstance(metadata, Mapping) else None
    id = next(
        (str(i) for i in (record, row.get("id"), row.get("url")) if i not in (None, "")), default_id
    )
    source, meta = row.get("source"), row.get("meta")
    if not isinstance(meta, str):
        rest = {k: v for k, v in row.items() if k not in (text_field, "id", "source")}
        meta = json.dumps(rest, default=str)
    return Document(id, text, source if isinstance(source, str) else "", meta)


def _no_field(text_field: str, names: Iterable[str]) -> str:
    there = ", ".join(sorted(names))
    return f"no field {text_field!r} among {there}; --config.data.text_field= names another"


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not valid UTF-8: {error.reason} at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} at column {error.colno}"
    return str(error)


def _lines(path: epath.Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        if codec := COMPRESSION.get(path.suffix.lower()):
            stream = pa.CompressedInputStream(pa.PythonFile(stream), codec)
        yield from io.BufferedReader(stream, 1 << 16) if codec else stream


def _text_pieces(path: epath.Path) -> Iterator[tuple[int, int, bytes]]:
    """The pieces of a long text, each with the line and the byte of it where it begins."""
    line, byte, window = 1, 1, b""
    with path.open("rb") as stream:
        while True:
            while len(window) < LONG_TEXT and (more := stream.read(LONG_TEXT - len(window))):
                window += more
            if not window:
                return
            end = _cut(window)
            piece, window = window[:end], window[end:]
            if not piece.isspace():
                yield line, byte, piece
            line += piece.count(b"\n")
            byte = end - piece.rfind(b"\n") if b"\n" in piece else byte + end


def _cut(window: bytes) -> int:
    """Where a text ends that goes on like `window`, which is short at the end of the file alone."""
    if blank := BLANK_LINES.search(window, LEAST_CUT):
        return blank.end()
    if len(window) < LONG_TEXT:
        return len(window)
    for place in LAST_PLACES:
        if found := place.match(window, LEAST_CUT):
            return found.end()
    # Before the first byte of the last character: it may not be here whole.
    tail = range(len(window) - 1, len(window) - 5, -1)
    return next((i for i in tail if window[i] & 0xC0 != 0x80), len(window))


def _undecoded(column: pa.Array) -> list[Any]:
    """The values, strings as bytes, so that one invalid string spoils its own row and no other."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()
