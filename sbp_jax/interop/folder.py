"""A Hugging Face folder as a model of ours: its config, its tokenizer, its parameters.

Opening it reads no weights, but checks that all of them are there and have their shapes; each
parameter is read when it is looked at, so one of them at a time is in memory.
"""

import dataclasses
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from sbp_jax import files
from sbp_jax.config import Experiment
from sbp_jax.data.tokenizer import Tokenizer, load_tokenizer
from sbp_jax.errors import UserError
from sbp_jax.interop import huggingface
from sbp_jax.interop.weights import Reader


def is_hugging_face(path: epath.Path) -> bool:
    """Whether a folder is one of these, whole or not, and none of a run."""
    return not (path / "checkpoints").exists() and any(
        True for pattern in ("*.safetensors", "*.bin") for _ in path.glob(pattern)
    )


class Folder:
    def __init__(self, path: epath.PathLike):
        if files.is_remote(path):
            raise UserError(f"{path}: copy this Hugging Face folder to a local disk first")
        self.path = Path(path)
        config = self._config()
        model = huggingface.model_config_from_hf(config)
        length = huggingface.read_field(config, "max_position_embeddings", int, 2048)
        data = dataclasses.replace(Experiment().data, sequence_length=length)
        self.experiment = Experiment(model=model, data=data)  # as far as the folder says
        self._weights = Reader(self.path)
        self._names = self._find_all()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        tokenizer = load_tokenizer(str(self.path))
        if tokenizer.vocab_size > self.experiment.model.vocab_size:
            raise UserError(
                f"{self.path}: its tokenizer has {tokenizer.vocab_size} ids, its model "
                f"{self.experiment.model.vocab_size}; they do not belong together"
            )
        return tokenizer

    def params(self) -> dict[str, Any]:
        """Of a kind that `np.asarray` reads, in float32, as often as it is asked."""
        params: dict[str, Any] = {"layers": {}}
        for tensor in huggingface.tensors(self.experiment.model):
            place = params["layers"] if tensor.layered else params
            place[tensor.path[-1]] = _Unread(self, tensor)
        return params

    def read(self, tensor: huggingface.Tensor) -> np.ndarray:
        return huggingface.from_hf(
            lambda name: self._weights.read(self._names[name]),
            tensor,
            self.experiment.model,
            np.float32,
        )

    def _config(self) -> dict[str, Any]:
        path = self.path / "config.json"
        try:
            config = json.loads(path.read_text())
            if not isinstance(config, dict):
                raise ValueError(f"{type(config).__name__} instead of an object")
            return config
        except FileNotFoundError as error:
            raise UserError(
                f"{self.path}: no config.json there; is it a Hugging Face model?"
            ) from error
        except ValueError as error:
            raise UserError(f"{path}: no config of a model ({error}); fetch it again") from error

    def _find_all(self) -> dict[str, str]:
        """Each tensor's name in the files, where base models leave a prefix out: all, no other."""
        model, places = self.experiment.model, self._weights.places
        names = {}
        for name, shape in huggingface.hf_shapes(model).items():
            bare = name.removeprefix("model.")
            names[name] = bare if name not in places and bare in places else name
            if names[name] not in places:
                raise UserError(
                    f"{self.path}: tensor {name!r} is missing, which config.json asks for; fetch "
                    "the folder again"
                )
            if (there := places[names[name]].shape) != shape:
                raise UserError(
                    f"{self.path}: tensor {name!r} has shape {there} where config.json asks for "
                    f"{shape}; the weights belong to another model"
                )
        # Harmless: the embedding a second time, and frequencies that follow from the config.
        spare = {"lm_head.weight"} if model.tie_embeddings else set()
        extra = sorted(
            name
            for name in set(places) - set(names.values()) - spare
            if not name.endswith("rotary_emb.inv_freq")
        )
        if extra:
            raise UserError(
                f"{self.path}: tensor {extra[0]!r} has no place in the model that config.json "
                f"describes ({len(extra)} such); the weights belong to another architecture"
            )
        return names


class _Unread:
    """A parameter that is read anew each time that its values are wanted."""

    def __init__(self, folder: Folder, tensor: huggingface.Tensor):
        self._folder, self._tensor = folder, tensor
        layers = (folder.experiment.model.num_layers,) if tensor.layered else ()
        self.shape = (*layers, *tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._folder.read(self._tensor), dtype)
