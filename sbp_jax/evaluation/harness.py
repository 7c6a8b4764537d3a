"""A model of ours as lm-eval sees one, so that every score is the one lm-eval itself computes.

lm-eval makes requests of a task and metrics of their answers. What stands between, how a text is
tokenized, cut to the context and split into windows, follows its `hf` backend token by token:
tests hold both to the same log-likelihoods.
"""

import functools
from typing import Any

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from sbp_jax.errors import UserError
from sbp_jax.inference.engine import Request, Sampling
from sbp_jax.inference.sampler import Sampler
from sbp_jax.inference.score import Scorer

READ = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}  # generation_kwargs
MAX_NEW_TOKENS = 256  # what lm-eval's backends generate where a task says nothing


class HarnessModel(TemplateLM):
    def __init__(self, sampler: Sampler, seed: int = 0):
        super().__init__()
        self.sampler, self._scorer, self._seed = sampler, Scorer(sampler), seed
        self._tokenizer = sampler.tokenizer
        # A question is asked for with each of its answers, one after the other.
        self._encode = functools.lru_cache(16)(lambda text: self._tokenizer.encode([text])[0])
        self.max_length = sampler.max_length

    @property
    def eot_token_id(self) -> int:
        return self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What a text without context follows."""
        bos = self._tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self._tokenizer.fingerprint

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        ids, bos = self._encode(string), self._tokenizer.bos_id
        return [*ids] if bos is None or add_special_tokens is False else [bos, *ids]

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        sequences = [self._cut(context, continuation) for _, context, continuation in requests]
        answers: list[Any] = [None] * len(requests)
        hidden = kwargs.get("disable_tqdm", False)
        with tqdm(total=len(requests), desc="log-likelihoods", disable=hidden) as progress:
            for index, logprobs, greedy in self._scorer.score(sequences):
                answers[index] = float(logprobs.sum(dtype="float64")), bool(greedy.all())
                if requests[index][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[index][0], answers[index])
                progress.update()
        return answers

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[list[int], int]:
        """The tokens, from the left only as many as the model reads, and where they count from."""
        if not continuation:
            raise UserError("a task asks for the likelihood of an empty text")
        if len(continuation) > self.max_length:
            raise UserError(
                f"a task has an answer of {len(continuation)} tokens, the model a context of "
                f"{self.max_length}"
            )
        tokens = (context + continuation)[-(self.max_length + 1) :]
        return tokens, len(tokens) - len(continuation)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        windows, owners = [], []
        for owner, request in enumerate(requests):
            [text] = request.args
            for window in utils.get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append((None, *utils.make_disjoint_window(window)))
                owners.append(owner)
        sums = [0.0] * len(requests)
        answers = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (logprob, _) in zip(owners, answers, strict=True):
            sums[owner] += logprob
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        stops: list[list[str]] = []

        def asked(index: int) -> Request:
            context, settings = requests[index].args
            how = normalize_gen_kwargs(settings, MAX_NEW_TOKENS)
            stops.append(how["until"])
            count = how["max_gen_toks"]
            if count >= self.max_length:
                raise UserError(
                    f"a task generates {count} tokens, the model has a context of "
                    f"{self.max_length}: lower generation_kwargs.max_gen_toks"
                )
            unread = {*how} - READ - ({"num_beams"} if how.get("num_beams") == 1 else set())
            if unread or how.get("temperature", 0.0) < 0:
                name = min(unread, default="temperature")
                raise UserError(
                    f"a task generates with {name}={how[name]}, which --engine=jax does not know; "
                    "use --engine=hf, or change generation_kwargs"
                )
            sampling = Sampling(
                max_tokens=count,
                temperature=how.get("temperature", 0.0),
                top_p=how.get("top_p", 1.0),
                top_k=how.get("top_k", 0),
                stop=tuple(text for text in how["until"] if text),
            )
            ids = self.tok_encode(context)[-(self.max_length - count) :]
            return Request(str(index), tuple(ids), sampling, seed=self._seed + index)

        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="texts", disable=disable_tqdm) as progress:
            for done in self.sampler.generate(map(asked, range(len(requests)))):
                if done.error:
                    raise UserError(f"text {done.id} of a task: {done.error}")
                index = int(done.id)
                texts[index] = postprocess_generated_text(done.text, stops[index], None)
                self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])
                progress.update()
        return texts
