"""A SentencePiece BPE model as Hugging Face's tokenizer.json, with the same ids on every text.

Pieces hold a plain space where SentencePiece writes "▁". So no text is rewritten on its way in, and
a "▁" of the text's own, which no piece holds, goes through its three bytes, as it does in ours.
"""

import json
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from sbp_jax.data.tokenizer import SPACE_MARK, SentencePieceTokenizer
from sbp_jax.errors import UserError

BPE = 2  # of the model's trainer_spec
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # kinds of pieces


def to_hugging_face(tokenizer: SentencePieceTokenizer) -> dict[str, str]:
    """tokenizer.json and tokenizer_config.json."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]
    _refuse_others(model)
    pieces = [_spaced(p.piece) if p.type == NORMAL else p.piece for p in model.pieces]
    special = {
        name: pieces[i]
        for name, i in (
            ("bos_token", model.trainer_spec.bos_id),
            ("eos_token", model.trainer_spec.eos_id),
            ("unk_token", model.trainer_spec.unk_id),
            ("pad_token", model.trainer_spec.pad_id),
        )
        if i >= 0
    }
    ids = {piece: i for i, piece in enumerate(pieces)}
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": ids[piece],
                "content": piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece in sorted(special.values(), key=ids.__getitem__)
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _begin(special, ids),
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": _bpe(model, ids),
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": "bos_token" in special,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # "</s>" in a text is text
        "model_max_length": 10**30,
        **special,
    }
    return {
        "tokenizer.json": json.dumps(described, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def _refuse_others(model: Any) -> None:
    """What `train_tokenizer` makes is converted exactly; of another's model that is not known."""
    normalizer = model.normalizer_spec
    for holds, what in (
        (
            model.trainer_spec.model_type == BPE,
            "it is not bpe, and unigram's choices depend on how sums of scores are rounded",
        ),
        (not normalizer.precompiled_charsmap, "it normalizes the text"),
        (not normalizer.add_dummy_prefix, "it puts a space before every text"),
        (not normalizer.remove_extra_whitespaces, "it removes spaces"),
        (model.trainer_spec.byte_fallback, "it has no byte pieces"),
        (
            all(p.type in (NORMAL, UNKNOWN, CONTROL, BYTE) for p in model.pieces),
            "it has pieces of its user's own",
        ),
    ):
        if not holds:
            raise UserError(
                f"tokenizer.model cannot become a tokenizer.json with the same ids: {what}; put "
                "the tokenizer.json of its makers into the run's tokenizer/ beside it"
            )


def _spaced(piece: str) -> str:
    return piece.replace(SPACE_MARK, " ")


def _bpe(model: Any, ids: dict[str, int]) -> dict[str, Any]:
    """SentencePiece joins any two neighbours that make a piece, the best piece first, of equals the
    leftmost; here each way to make a piece is a rule of its own, that with the longest left part
    first, which is the leftmost in a run of one character.
    """
    normal = sorted((p for p in model.pieces if p.type == NORMAL), key=lambda p: -p.score)
    known = {_spaced(p.piece) for p in normal}
    merges = []
    for piece in (_spaced(p.piece) for p in normal):
        ways = ((piece[:cut], piece[cut:]) for cut in range(len(piece) - 1, 0, -1))
        merges += [[left, right] for left, right in ways if left in known and right in known]
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[model.trainer_spec.unk_id].piece,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
    }


def _begin(special: dict[str, str], ids: dict[str, int]) -> dict[str, Any] | None:
    """Readers that add special tokens put the first one before a text, as our own samples have."""
    if "bos_token" not in special:
        return None
    bos = special["bos_token"]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}},
    }
