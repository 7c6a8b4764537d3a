"""What goes over the wire: OpenAI's protocol and Anthropic's as plain data, without a network.

OpenAI itself refuses fields that it does not know, so what only vLLM understands (`top_k`,
`stop_token_ids`, `return_token_ids`) is sent where a request needs it and not otherwise. Hence
`vllm serve` should run with `--generation-config vllm`: or else a generation_config.json of the
model fills in what is not sent, a top_k for instance.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sbp_jax.inference.engine import Prompt, Sampling


class Reply(NamedTuple):
    text: str
    finish_reason: str
    error: str = ""
    prompt_tokens: int | None = None  # None: the server did not say
    new_tokens: int | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


class Unsupported(ValueError):
    """What this protocol has no words for."""


class Protocol(NamedTuple):
    request: Callable[[str, Prompt, Sampling, int], tuple[str, dict[str, Any]]]  # path and body
    reply: Callable[[Any], Reply]  # of the parsed body; raises what `MALFORMED` has
    headers: dict[str, str]
    key_header: tuple[str, str]  # name, and form of the value


MALFORMED = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError)


def is_conversation(prompt: Prompt) -> bool:
    return bool(prompt) and isinstance(prompt[0], Mapping)


def openai_request(
    model: str, prompt: Prompt, sampling: Sampling, seed: int
) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed % 2**63,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop_ids:
        body["stop_token_ids"] = list(sampling.stop_ids)
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.schema:
        schema = {"name": "text", "schema": json.loads(sampling.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if is_conversation(prompt):
        if sampling.logprobs:
            body["logprobs"] = True
        return "/chat/completions", body | {"messages": list(prompt)}
    if sampling.logprobs:
        body["logprobs"] = 0  # of the drawn token, and of no other one
    if not isinstance(prompt, str):  # who speaks in ids is understood in ids
        body["return_token_ids"] = True
    return "/completions", body | {"prompt": prompt if isinstance(prompt, str) else list(prompt)}


def openai_reply(body: Any) -> Reply:
    choice = body["choices"][0]
    text, refusal = choice.get("text"), None
    if text is None:
        text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
    reason, error = _finish(choice["finish_reason"], refusal)
    tokens = choice.get("token_ids") or ()
    by_id = reason == "stop" and not isinstance(choice.get("stop_reason"), str)  # else a stop text
    logprobs = choice.get("logprobs") or {}
    values = logprobs.get("token_logprobs") or [
        place["logprob"] for place in logprobs.get("content") or ()
    ]
    usage = body.get("usage") or {}
    return Reply(
        text=_clean(text or ""),
        finish_reason=reason,
        error=error,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        new_tokens=_count(usage.get("completion_tokens")),
        tokens=tuple(tokens[:-1] if by_id else tokens),
        logprobs=tuple(map(float, values)),
    )


def anthropic_request(
    model: str, prompt: Prompt, sampling: Sampling, seed: int
) -> tuple[str, dict[str, Any]]:
    """A schema is a tool's input, and the model is made to call the tool: the server then gives
    parsed JSON, where an instruction in words would often bring prose and fences along. There is no
    seed in this protocol.
    """
    for name in ("stop_ids", "logprobs"):
        if getattr(sampling, name):
            raise Unsupported(f"Anthropic's protocol has no {name}")
    if not isinstance(prompt, str) and not is_conversation(prompt):
        raise Unsupported("Anthropic's protocol takes texts and conversations, not token ids")
    text = isinstance(prompt, str)
    messages: Any = [{"role": "user", "content": prompt}] if text else prompt
    system = [m["content"] for m in messages if m["role"] == "system"]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "messages": [m for m in messages if m["role"] != "system"],
    }
    if system:
        body["system"] = "\n\n".join(system)
    if sampling.top_p != 1:  # some models refuse it beside a temperature
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    if sampling.schema:
        body["tools"] = [
            {
                "name": "answer",
                "description": "Takes the answer.",
                "input_schema": json.loads(sampling.schema),
            }
        ]
        body["tool_choice"] = {"type": "tool", "name": "answer"}
    return "/messages", body


def anthropic_reply(body: Any) -> Reply:
    usage = body.get("usage") or {}
    texts = [block["text"] for block in body["content"] if block["type"] == "text"]
    inputs = [block["input"] for block in body["content"] if block["type"] == "tool_use"]
    text = json.dumps(inputs[0], ensure_ascii=False) if inputs else "".join(texts)
    reason, error = _finish(body["stop_reason"], None)
    read = [  # what came out of a cache counts as well
        _count(usage.get(f"{kind}input_tokens")) or 0
        for kind in ("", "cache_creation_", "cache_read_")
    ]
    return Reply(
        text=_clean(text),
        finish_reason=reason,
        error=error,
        prompt_tokens=sum(read) if usage else None,
        new_tokens=_count(usage.get("output_tokens")),
    )


PROTOCOLS = {
    "openai": Protocol(openai_request, openai_reply, {}, ("authorization", "Bearer {}")),
    "anthropic": Protocol(
        anthropic_request,
        anthropic_reply,
        {"anthropic-version": "2023-06-01"},
        ("x-api-key", "{}"),
    ),
}

_FINISH = {
    "stop": "stop",
    "length": "length",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "stop",
    "tool_calls": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}


def _finish(reason: Any, refusal: Any) -> tuple[str, str]:
    """Our word for it, and the error where the text is not one that was asked for."""
    if refusal:
        return "error", f"the model refused: {refusal}"
    known = _FINISH.get(reason)
    return (known, "") if known else ("error", f"the server ended it with {reason!r}")


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which JSON may carry and UTF-8 may not."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} tokens")
    return value
