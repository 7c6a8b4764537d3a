"""Text to token ids and back, one interface to SentencePiece and Hugging Face tokenizers.

Text is only ever text: a "<s>" or "<|endoftext|>" in a document becomes ordinary pieces, never the
special id. SentencePiece writes a space as "▁" (U+2581), so a document's own "▁" would come back as
a space; it is encoded through its three UTF-8 byte pieces instead, and every text comes back whole.
"""

import hashlib
import heapq
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import sentencepiece
from etils import epath

from sbp_jax import files
from sbp_jax.errors import UserError

SPACE_MARK = "▁"
NO_CHAT = "this tokenizer has no chat template: give the prompt as text"
PIECE_CHARACTERS = 2_000  # texts are cut to this for training, for SentencePiece skips long lines
SAMPLE_PIECES = 50_000  # 100 MB at most, plenty for 49,152 pieces and minutes of training


class Tokenizer(Protocol):
    """What every tokenizer here does; all of them can be pickled."""

    vocab_size: int
    bos_id: int | None
    eos_id: int
    stop_ids: tuple[int, ...]  # all that end a generated text: eos, for a chat model others too
    fingerprint: str  # sha256: equal when and only when the same text gives the same ids

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without bos and eos."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The ids of a conversation up to where the answer begins, special ones included."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special ids leave no trace in it."""
        ...

    def save(self, folder: epath.PathLike) -> None:
        """Makes a folder that `load_tokenizer` accepts, so that a run carries its tokenizer."""
        ...


class SentencePieceTokenizer:
    def __init__(self, model: bytes, path: epath.PathLike = "tokenizer.model"):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"{path}: not a SentencePiece model") from error
        if self._processor.eos_id() < 0:
            raise UserError(
                f"{path}: the model has no end-of-text piece, which separates documents"
            )
        self.model = model
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int | None = (
            self._processor.bos_id() if self._processor.bos_id() >= 0 else None
        )
        self.eos_id: int = self._processor.eos_id()
        self.stop_ids: tuple[int, ...] = (self.eos_id,)
        self.fingerprint = files.sha256(model)
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        a, b = self._processor.encode(["a", "b"], num_threads=1)
        # Others' models may lack byte pieces, or put a space before every text: no exact mark then.
        exact = self._processor.decode([*a, *mark, *b]) == f"a{SPACE_MARK}b"
        self._mark = mark if exact else None

    def encode(self, texts: list[str]) -> list[list[int]]:
        rows = self._processor.encode(texts, num_threads=1)
        if self._mark is None:
            return rows
        return [
            self._encode_marked(text, self._mark) if SPACE_MARK in text else row
            for text, row in zip(texts, rows, strict=True)
        ]

    def _encode_marked(self, text: str, mark: list[int]) -> list[int]:
        first, *rest = self._processor.encode(text.split(SPACE_MARK), num_threads=1)
        return first + [i for row in rest for i in mark + row]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        raise UserError(NO_CHAT)

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode(_in_range(ids, self.vocab_size))

    def save(self, folder: epath.PathLike) -> None:
        files.write_bytes(epath.Path(folder) / "tokenizer.model", self.model)


class HuggingFaceTokenizer:
    """A tokenizer.json, its special tokens (names or ids), and the files that travel with it."""

    def __init__(
        self,
        tokenizer_json: str,
        bos: str | int | None,
        eos: str | int | None,
        companions: dict[str, bytes],
        stop_ids: tuple[int, ...] = (),  # beside eos
    ):
        try:
            import tokenizers
        except ImportError as error:
            raise UserError('Hugging Face tokenizers need: pip install "sbp_jax[hf]"') from error
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises nothing more specific
            raise UserError(f"tokenizer.json cannot be read: {error}") from error
        self._tokenizer.encode_special_tokens = True  # "<s>" in a text is text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._arguments = (tokenizer_json, bos, eos, companions, stop_ids)
        self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1  # ids may have gaps
        self.bos_id: int | None = None if bos is None else self._id(bos)
        if eos is None:
            raise UserError(
                "no eos_token in tokenizer_config.json, special_tokens_map.json or config.json"
            )
        self.eos_id: int = self._id(eos)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys((self.eos_id, *stop_ids)))
        self.fingerprint = files.sha256(f"{self.bos_id} {self.eos_id} {tokenizer_json}".encode())

    def _id(self, token: str | int) -> int:
        found = token if isinstance(token, int) else self._tokenizer.token_to_id(token)
        if found is None or self._tokenizer.id_to_token(found) is None:
            raise UserError(f"special token {token!r} is not in tokenizer.json")
        return found

    def __reduce__(
        self,
    ) -> tuple[Any, ...]:  # the library's own pickle forgets encode_special_tokens
        return HuggingFaceTokenizer, self._arguments

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        try:
            import tokenizers
            from transformers import PreTrainedTokenizerFast
        except ImportError as error:
            raise UserError('chat templates need: pip install "sbp_jax[hf]"') from error
        companions = self._arguments[3]
        config = json.loads(companions.get("tokenizer_config.json", b"{}"))
        template = companions.get("chat_template.jinja", b"").decode() or config.get(
            "chat_template"
        )
        if not template:
            raise UserError(NO_CHAT)
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        special = {k: self._tokenizer.id_to_token(i) for k, i in names.items() if i is not None}
        renderer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizers.Tokenizer.from_str(self._arguments[0]), **special
        )
        conversation: list[Any] = list(messages)
        ids: Any = renderer.apply_chat_template(
            conversation, chat_template=template, add_generation_prompt=True, return_dict=False
        )
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(_in_range(ids, self.vocab_size), skip_special_tokens=True)

    def save(self, folder: epath.PathLike) -> None:
        tokenizer_json, _, _, companions, _ = self._arguments
        config = json.loads(companions.get("tokenizer_config.json", b"{}"))
        config["bos_token"] = (
            None if self.bos_id is None else self._tokenizer.id_to_token(self.bos_id)
        )
        config["eos_token"] = self._tokenizer.id_to_token(self.eos_id)
        # Without it, transformers rebuilds the tokenizer as the model's type usually has it.
        config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        for name, data in companions.items():
            if name != "tokenizer_config.json":
                files.write_bytes(epath.Path(folder) / name, data)
        files.write_json(epath.Path(folder) / "tokenizer_config.json", config)
        generation = {"bos_token_id": self.bos_id, "eos_token_id": list(self.stop_ids)}
        files.write_json(epath.Path(folder) / "generation_config.json", generation)
        files.write_bytes(epath.Path(folder) / "tokenizer.json", tokenizer_json.encode())


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a .model file, a folder that `save` made, a Hugging Face folder, seqio:FILE.

    A seqio SentencePieceVocabulary is its model file, so no seqio is needed to give the same ids.
    """
    place = epath.Path(path.removeprefix("seqio:"))
    if not path or not place.exists():
        raise UserError(
            f"tokenizer {path!r} is not there: name a .model file, a Hugging Face folder or "
            "seqio:FILE, or leave data.tokenizer empty to train one"
        )
    if not place.is_dir():
        return SentencePieceTokenizer(place.read_bytes(), path)
    if (place / "tokenizer.model").exists() and not (place / "tokenizer.json").exists():
        return SentencePieceTokenizer(
            (place / "tokenizer.model").read_bytes(), place / "tokenizer.model"
        )
    try:
        return _load_hugging_face(place)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    output: epath.PathLike,
    *,
    kind: str = "bpe",
    seed: int = 0,
) -> Tokenizer:
    """Trains SentencePiece ("bpe" or "unigram") and saves it in the folder `output`.

    The same texts in the same order give the same model, byte for byte. It reads all of them, but
    learns from a sample of `SAMPLE_PIECES` stretches of text, chosen by the seed. Ids 0, 1, 2 are
    pad, eos, unk, as seqio wants them, 3 is bos, then come the 256 bytes, then what was learnt.
    """
    if kind not in ("bpe", "unigram"):
        raise UserError(f"data.tokenizer_kind {kind!r} is not known: bpe or unigram")

    def rank(piece: tuple[int, str]) -> bytes:
        return hashlib.blake2b(f"{seed} tokenizer {piece[0]}".encode(), digest_size=8).digest()

    cut = (
        text[start : start + PIECE_CHARACTERS]
        for text in texts
        for start in range(0, len(text), PIECE_CHARACTERS)
    )
    sample = sorted(heapq.nsmallest(SAMPLE_PIECES, enumerate(cut), key=rank))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text for _, text in sample),
            model_writer=model,
            vocab_size=vocab_size,
            model_type=kind,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=3,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,  # runs of spaces: indented code is shorter by half
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.9995,  # rarer characters go through their bytes
            max_sentence_length=4 * PIECE_CHARACTERS,  # it counts bytes
            num_threads=4,  # fixed: sums in another order give another unigram model
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, vocab_size) from error
    tokenizer = SentencePieceTokenizer(model.getvalue())
    tokenizer.save(output)
    return tokenizer


def _explain(error: RuntimeError, vocab_size: int) -> Exception:
    message = str(error)
    if "sentences_.empty()" in message or "(all_chars_count) > (0)" in message:  # NULs alone
        return UserError("there is no text to train a tokenizer on")
    if found := re.search(r"too high .* <= (\d+)", message):
        return UserError(
            f"model.vocab_size {vocab_size} is more than this text yields, {found[1]} pieces: "
            f"give more text or --config.model.vocab_size={found[1]}"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"model.vocab_size {vocab_size} is too small for the characters of this text: "
            f"--config.model.vocab_size={found[1]} is the least, more is better"
        )
    return error


def _load_hugging_face(folder: epath.Path) -> Tokenizer:
    names = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
    companions = {n: (folder / n).read_bytes() for n in names if (folder / n).exists()}
    if (folder / "tokenizer.json").exists():
        bos, eos = _special_token(folder, "bos_token"), _special_token(folder, "eos_token")
        return HuggingFaceTokenizer(
            (folder / "tokenizer.json").read_text(), bos, eos, companions, _stop_ids(folder)
        )
    if not companions:
        raise UserError("no tokenizer in this folder: neither tokenizer.json nor tokenizer.model")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError(
            'a tokenizer without tokenizer.json needs: pip install "sbp_jax[hf]"'
        ) from error
    try:  # older formats (vocab.json and merges.txt), which transformers converts
        old = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer_json = old.backend_tokenizer.to_str()
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"transformers cannot make a tokenizer.json of this folder: {reason}"
        ) from error
    return HuggingFaceTokenizer(
        tokenizer_json, old.bos_token, old.eos_token, companions, _stop_ids(folder)
    )


def _special_token(folder: epath.Path, name: str) -> str | int | None:
    places = {
        "tokenizer_config.json": name,
        "special_tokens_map.json": name,
        "config.json": f"{name}_id",
    }
    for file, key in places.items():
        token = _read_json(folder / file).get(key)
        if isinstance(token, dict):  # an AddedToken
            token = token["content"]
        if isinstance(token, list):  # config.json may name several; any of them ends a text
            token = token[0]
        if token is not None:
            return token
    return None


def _stop_ids(folder: epath.Path) -> tuple[int, ...]:
    """Where transformers ends a text: at an id or several, of config.json in old folders alone."""
    for file in ("generation_config.json", "config.json"):
        ids = _read_json(folder / file).get("eos_token_id")
        if ids is not None:
            return tuple(ids) if isinstance(ids, list) else (ids,)
    return ()


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path.name} is not valid JSON: {error}") from error


def _in_range(ids: Sequence[int], vocab_size: int) -> list[int]:
    """Plain integers; C++ would overflow on a wrong id, or leave it out without a word."""
    plain = [int(i) for i in ids]
    for i in plain:
        if not 0 <= i < vocab_size:
            raise UserError(
                f"token id {i} is outside the tokenizer's 0..{vocab_size - 1}: not its tokens"
            )
    return plain
