"""The engine that asks servers, against servers on this machine: scripted ones, and vLLM's.

A scripted server calls the test's own function for each request and notes what it was sent. Waits
are on a clock of the test's: no result depends on how fast anything is.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import pytest

from sbp_jax.config import ApiConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.api import Api
from sbp_jax.inference.api.pace import Clock
from sbp_jax.inference.engine import EngineDied, Request, Sampling

KEY = "sk-4711-very-secret"
SAMPLING = Sampling(max_tokens=20)


class Sent(NamedTuple):
    path: str
    headers: dict
    body: dict
    number: int  # from 0
    prompt: object


class Cut(NamedTuple):
    """Half of an answer, after which the connection ends, or hangs until `until`."""

    until: threading.Event | None = None


class Server(ThreadingHTTPServer):
    """Answers with what `script(sent)` returns: a body, (status, body), (status, body, headers) or
    a Cut."""

    daemon_threads, block_on_close, request_queue_size = True, False, 256

    def __init__(self, script):
        self.script, self.seen = script, []
        self.lock, self.inside, self.most_inside = threading.Lock(), 0, 0
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients that hang up are a part of these tests."""

    @property
    def prompts(self):
        return [sent.prompt for sent in self.seen]


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        with server.lock:
            sent = Sent(self.path, dict(self.headers.items()), body, len(server.seen), prompt)
            server.seen.append(sent)
            server.inside += 1
            server.most_inside = max(server.most_inside, server.inside)
        try:
            answer = server.script(sent)
        finally:
            with server.lock:
                server.inside -= 1
        if isinstance(answer, Cut):
            self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"choices": [')
            self.wfile.flush()
            if answer.until:
                answer.until.wait()
            self.close_connection = True
            return
        status, content, headers = (
            (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
        )
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def text(content, finish="stop", usage=(3, 2)):
    body = {"choices": [{"text": content, "finish_reason": finish}]}
    return body | (
        {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {}
    )


def message(content, finish="stop", usage=(3, 2)):
    body = text("", finish, usage)
    body["choices"][0] = {
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish,
    }
    return body


def echo(sent):
    return text(f"<{sent.prompt}>")


@pytest.fixture
def serve():
    """Starts a scripted server; at the end all are gone."""
    with contextlib.ExitStack() as stack:

        def start(script=echo):
            server = Server(script)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            stack.callback(server.server_close)
            return server

        yield start
    assert ours() == []


def ours():
    """Threads that the engine or its event loop have left."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("sbp_jax-api", "asyncio"))]


class Jumping(Clock):
    """Waiting takes no time; the clock says that it did."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    async def sleep(self, seconds):
        self.time += seconds
        await asyncio.sleep(0)


class Standing(Clock):
    """Time goes on when the test says so."""

    def __init__(self):
        self.time, self.sleepers = 0.0, 0

    def now(self):
        return self.time

    async def sleep(self, seconds):
        until = self.time + seconds
        self.sleepers += 1
        while self.time < until:
            await asyncio.sleep(0.001)
        self.sleepers -= 1


def engine(server, clock=None, **fields):
    url = server if isinstance(server, str) else server.url
    return Api(ApiConfig(**{"url": url, "model": "m"} | fields), clock or Jumping())


def asking(prompts, sampling=SAMPLING):
    return [Request(f"id {p}", p, sampling, seed=i) for i, p in enumerate(prompts)]


def answers(api, requests):
    return {completion.id: completion for completion in api.generate(requests)}


def wait_until(condition):
    while not condition():
        time.sleep(0.001)


class TestRequests:
    def test_everything_is_answered_under_its_id_as_it_finishes(self, serve):
        rest = threading.Event()

        def script(sent):
            if sent.prompt == "0":
                rest.wait()
            elif len(server.seen) == 200:
                rest.set()
            return echo(sent)

        server = serve(script)
        found = list(engine(server, concurrency=8).generate(asking(map(str, range(200)))))
        assert {(c.id, c.text) for c in found} == {(f"id {i}", f"<{i}>") for i in range(200)}
        assert found[0].id != "id 0"
        assert {c[2:5] for c in found} == {("stop", 3, 2)}

    @pytest.mark.parametrize(
        "prompt, path, form",
        [
            ("Once", "/v1/completions", {"prompt": "Once"}),
            ((5, 6), "/v1/completions", {"prompt": [5, 6], "return_token_ids": True}),
            (
                ({"role": "user", "content": "Hi \ud800"},),
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": "Hi \ud800"}]},
            ),
        ],
        ids=["text", "ids", "messages"],
    )
    def test_each_form_of_a_prompt_is_sent_with_what_openai_knows(self, serve, prompt, path, form):
        server = serve(lambda sent: message("a") if "messages" in sent.body else text("a"))
        [done] = engine(server).generate([Request("a", prompt, Sampling(9, 0.5, 0.9), 2**64 + 7)])
        assert (done.text, done.finish_reason) == ("a", "stop")
        [sent] = server.seen
        common = {"model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "seed": 7}
        assert sent.path == path and sent.body == common | form
        assert "Authorization" not in sent.headers

    def test_what_only_some_servers_know_is_sent_where_it_is_asked_for(self, serve):
        def script(sent):
            body = message("a b") if "messages" in sent.body else text("a b")
            values = [{"logprob": -0.5}, {"logprob": -1.5}]
            logprobs = {"token_logprobs": [-0.5, -1.5]} | {"content": values}
            body["choices"][0] |= {"logprobs": logprobs, "token_ids": [8, 9]}
            return body

        server = serve(script)
        sampling = Sampling(top_k=4, stop_ids=(9,), logprobs=True)
        found = answers(
            engine(server), asking([(1,), ({"role": "user", "content": "x"},)], sampling)
        )
        assert {(c.logprobs, c.tokens) for c in found.values()} == {((-0.5, -1.5), (8,))}
        chat, bare = sorted((sent.body for sent in server.seen), key=lambda body: "prompt" in body)
        assert (chat["logprobs"], bare["logprobs"]) == (True, 0)
        for body in (chat, bare):
            assert (body["top_k"], body["stop_token_ids"]) == (4, [9])

    def test_anthropics_form(self, serve, monkeypatch):
        monkeypatch.setenv("OTHER_KEY", KEY)

        def script(sent):
            usage = {"input_tokens": 5, "cache_read_input_tokens": 6, "output_tokens": 7}
            content = [{"type": "text", "text": "Yes"}, {"type": "text", "text": "."}]
            if "tools" in sent.body:
                content = [{"type": "tool_use", "name": "answer", "input": {"n": 1}}]
            return {"content": content, "stop_reason": "end_turn", "usage": usage}

        server = serve(script)
        api = engine(server, protocol="anthropic", key_variable="OTHER_KEY", input_price=1e6)
        messages = ({"role": "system", "content": "Be"}, {"role": "user", "content": "Hi"})
        requests = [
            Request("text", "Hi", Sampling(9, top_k=3)),
            Request("messages", messages, Sampling(9, 0.5, 0.9)),
            Request("schema", "Hi", Sampling(9, schema='{"type": "object"}')),
            Request("ids", (1, 2), SAMPLING),
            Request("logprobs", "Hi", Sampling(logprobs=True)),
        ]
        found = answers(api, requests)
        assert found["text"][1:5] == ("Yes.", "stop", 11, 7) and found["text"].cost == 11
        assert found["schema"].text == '{"n": 1}'
        for name, reason in (("ids", "not token ids"), ("logprobs", "has no logprobs")):
            assert found[name].finish_reason == "error" and reason in found[name].error
        user = {"role": "user", "content": "Hi"}
        common = {"model": "m", "max_tokens": 9, "messages": [user]}
        bodies = [sent.body for sent in server.seen]
        assert len(bodies) == 3
        assert common | {"temperature": 1.0, "top_k": 3} in bodies
        assert common | {"temperature": 0.5, "top_p": 0.9, "system": "Be"} in bodies
        [tool] = [body["tools"][0] for body in bodies if "tools" in body]
        assert tool["input_schema"] == {"type": "object"}
        for sent in server.seen:
            headers = {name.lower(): value for name, value in sent.headers.items()}
            assert headers["x-api-key"] == KEY and headers["anthropic-version"] == "2023-06-01"
            assert sent.path == "/v1/messages" and "authorization" not in headers

    @pytest.mark.parametrize("protocol", ["openai", "anthropic"])
    def test_stop_texts_go_along_and_end_the_text_whatever_the_server_makes_of_them(
        self, serve, protocol
    ):
        def script(sent):
            if protocol == "anthropic":
                content = [{"type": "text", "text": "a b c"}]
                return {"content": content, "stop_reason": "stop_sequence"}
            body = text("a b c")
            # vLLM says which one it was, unless an id ended the text.
            reason = sent.body["stop"][0] if sent.prompt == "text" else None
            body["choices"][0] |= {"token_ids": [8, 9], "stop_reason": reason}
            return body

        server = serve(script)
        api = engine(server, protocol=protocol)
        found = answers(api, asking(["text", "id"], Sampling(stop=(" c", " b"))))
        assert {c[1:3] for c in found.values()} == {("a", "stop")}
        if protocol == "openai":
            assert (found["id text"].tokens, found["id id"].tokens) == ((8, 9), (8,))
        name = {"openai": "stop", "anthropic": "stop_sequences"}[protocol]
        assert all(sent.body[name] == [" c", " b"] for sent in server.seen)

    def test_openais_newer_name_of_max_tokens_is_learnt_once(self, serve):
        def script(sent):
            if "max_tokens" in sent.body:
                return 400, {"error": {"message": "Use 'max_completion_tokens' instead."}}
            return message("a")

        server = serve(script)
        prompts = [({"role": "user", "content": str(i)},) for i in range(9)]
        found = answers(engine(server, concurrency=1), asking(prompts))
        assert {c.text for c in found.values()} == {"a"} and len(server.seen) == 10

    def test_tokens_that_the_server_does_not_report_are_estimated_from_above(self, serve):
        api = engine(serve(lambda sent: text("four", usage=None)), output_price=1e6)
        [done] = api.generate(asking(["what is two and two"]))
        assert done.prompt_tokens == api.prompt_tokens("what is two and two") >= 5
        assert done.new_tokens == done.cost == 2
        assert api.prompt_tokens((1, 2, 3)) == 3
        assert api.prompt_tokens(({"role": "user", "content": "ab"},)) == 9


INTERRUPTED = """
import itertools, sys, threading
from sbp_jax.config import ApiConfig
from sbp_jax.inference.api import Api
from sbp_jax.inference.engine import Request, Sampling

api = Api(ApiConfig(url=sys.argv[1], model="m", concurrency=8))
try:
    list(api.generate(Request(str(i), "a", Sampling()) for i in itertools.count()))
except KeyboardInterrupt:
    print("KeyboardInterrupt", [thread.name for thread in threading.enumerate()])
"""


class TestFlow:
    def test_requests_are_pulled_as_there_is_room_and_no_more_are_in_flight(self, serve):
        together = threading.Barrier(4)  # or else nobody is answered

        def script(sent):
            together.wait()
            return echo(sent)

        def requests():
            for i in itertools.count():
                pulled.append(i)
                yield Request(str(i), str(i), SAMPLING)

        server, pulled = serve(script), []
        found = engine(server, concurrency=4).generate(requests())
        for taken in range(1, 41):
            next(found)
            assert len(pulled) < taken + 4
        together.abort()
        found.close()
        assert server.most_inside == 4

    def test_closing_ends_what_is_in_flight_and_leaves_no_thread(self, serve):
        release = threading.Event()

        def script(sent):
            return echo(sent) if sent.prompt == "0" else Cut(until=release)

        server = serve(script)
        api = engine(server, concurrency=8)
        found = api.generate(Request(str(i), str(i), SAMPLING) for i in itertools.count())
        assert next(found).id == "0"
        assert ours()
        found.close()
        assert ours() == []
        release.set()
        server.script = echo
        assert len(answers(api, asking(["a", "b"]))) == 2

    def test_ctrl_c_in_the_middle_of_a_request_is_heeded(self, serve):
        release = threading.Event()
        server = serve(lambda sent: Cut(until=release))
        child = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, server.url], stdout=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(server.seen) == 8 or child.poll() is not None)
        child.send_signal(signal.SIGINT)
        assert child.communicate()[0] == "KeyboardInterrupt ['MainThread']\n"
        release.set()

    def test_an_error_in_the_callers_requests_reaches_the_caller(self, serve):
        def requests():
            yield Request("a", "a", SAMPLING)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(engine(serve()).generate(requests()))
        assert ours() == []

    def test_no_requests_no_completions(self, serve):
        assert list(engine(serve()).generate([])) == []

    @pytest.mark.parametrize("limit", [{"requests_per_minute": 60}, {"tokens_per_minute": 6_000}])
    def test_limits_a_minute_hold_on_the_server(self, serve, limit):
        clock, times = Jumping(), []

        def script(sent):
            times.append(clock.time)
            return text("a", usage=(50, 50))

        api = engine(serve(script), clock, concurrency=3, **limit)
        prompts = ["x" * 144 for _ in range(150)]  # an estimate of 80, with max_tokens 100
        assert sum(1 for _ in api.generate(asking(prompts))) == 150
        for start in times:
            assert sum(start <= t < start + 60 for t in times) <= 60 * 7 / 6 + 4
        assert clock.time >= 130

    def test_tokens_that_were_not_used_are_given_back(self, serve):
        clock = Jumping()
        api = engine(serve(), clock, tokens_per_minute=6_000, concurrency=1)
        assert sum(1 for _ in api.generate(asking("x" * 100, Sampling(max_tokens=5_000)))) == 100
        assert clock.time < 2 * 60  # and not 100 x 50 s

    def test_after_a_429_all_wait_and_not_only_the_one(self, serve):
        clock, refused = Standing(), threading.Event()

        def script(sent):
            arrived.append(clock.time)
            if not refused.is_set():
                refused.set()
                return 429, {}, {"retry-after": "100"}
            return echo(sent)

        def requests():
            yield Request("a", "a", SAMPLING)
            wait_until(lambda: clock.sleepers)
            yield from asking("bcd")

        server, arrived, found = serve(script), [], []
        api = engine(server, clock, concurrency=4)
        work = threading.Thread(target=lambda: found.extend(api.generate(requests())), daemon=True)
        work.start()
        wait_until(lambda: clock.sleepers == 2)  # itself, and the first of the others at the gate
        while work.is_alive():
            clock.time += 1.0
            time.sleep(0.002)
        assert {c.text for c in found} == {"<a>", "<b>", "<c>", "<d>"}
        assert arrived[0] == 0 and min(arrived[1:]) >= 100


def first(times, fault):
    """A script that meets each prompt with a fault before it answers."""

    def script(sent):
        before = [s for s in sent_before(sent) if s.prompt == sent.prompt]
        return fault if len(before) < times else echo(sent)

    def sent_before(sent):
        return script.server.seen[: sent.number]

    return script


TRANSIENT = {
    "429": (429, {"error": {"message": "slow down"}}, {"retry-after": "3"}),
    "429 without a word": (429, b""),
    "500": (500, {"error": "oops"}),
    "503": (503, b"<html>busy</html>"),
    "529": (529, {"type": "error", "error": {"type": "overloaded_error"}}),
    "cut": Cut(),
    "no JSON": b'{"choices": [',
    "no object": b"[]",
    "no choice": {"choices": []},
    "no text": {"choices": [{"finish_reason": "stop"}]},
    "numbers for text": {"choices": [{"text": 3, "finish_reason": "stop"}]},
}


class TestTrouble:
    @pytest.mark.parametrize("fault", TRANSIENT.values(), ids=TRANSIENT.keys())
    def test_what_may_pass_is_tried_again(self, serve, fault):
        script = first(2, fault)
        script.server = server = serve(script)
        clock = Jumping()
        found = answers(engine(server, clock, concurrency=4, retries=8), asking("abcdefgh"))
        assert {c.text for c in found.values()} == {f"<{c}>" for c in "abcdefgh"}
        assert len(server.seen) == 24
        assert clock.time >= 0.5

    @pytest.mark.parametrize("status", [429, 500, 503])
    @pytest.mark.parametrize(
        "asked", ["7200", "63072000", "1e300", "Fri, 01 Jan 2100 00:00:00 GMT"]
    )
    def test_who_asks_to_wait_for_more_than_an_hour_is_told_of_and_not_waited_for(
        self, serve, status, asked
    ):
        headers, clock = {"retry-after": asked}, Jumping()
        server = serve(lambda sent: (status, {"message": "quota"}, headers))
        with pytest.raises(UserError, match=rf"HTTP {status}: quota; it asks to wait for \d"):
            answers(engine(server, clock, concurrency=2), asking("abc"))
        assert clock.time == 0 and ours() == []

    def test_an_hour_is_waited_for(self, serve):
        script, clock = first(1, (429, {}, {"retry-after": "3600"})), Jumping()
        script.server = server = serve(script)
        assert answers(engine(server, clock, concurrency=1), asking("a"))["id a"].text == "<a>"
        assert clock.time >= 3600

    def test_a_storm_of_429_is_outlived_where_others_are_served(self, serve):
        """Of 20 attempts one is served: more refusals for each request than it has retries."""

        def script(sent):
            served = sent.number % 20 == 19 or sent.number >= 500
            return echo(sent) if served else (429, {}, {"retry-after-ms": "20"})

        server = serve(script)
        found = answers(engine(server, concurrency=16, retries=8), asking(map(str, range(40))))
        assert {c.finish_reason for c in found.values()} == {"stop"} and len(found) == 40

    def test_one_that_fails_for_good_is_an_error_and_the_rest_goes_on(self, serve):
        server = serve(lambda sent: (500, {"message": "bug"}) if sent.prompt == "d" else echo(sent))
        found = answers(engine(server, concurrency=2, retries=3), asking("abcdefgh"))
        assert (found["id d"].finish_reason, found["id d"].error) == ("error", "HTTP 500: bug")
        assert len([c for c in found.values() if c.text]) == 7
        assert server.prompts.count("d") == 4

    def test_a_server_that_answers_nobody_is_dead(self, serve):
        server = serve(lambda sent: (500, {"message": "bug"}))
        with pytest.raises(EngineDied, match="nobody is answered: HTTP 500: bug"):
            answers(engine(server, concurrency=4, retries=2), asking("abc"))
        endless = (Request(str(i), str(i), SAMPLING) for i in itertools.count())
        with pytest.raises(EngineDied):
            answers(engine(server, concurrency=4, retries=2), endless)

    @pytest.mark.parametrize("last_words", [Cut(), (503, {}), (429, {}, {"retry-after": "9"})])
    def test_a_server_that_goes_away_is_dead_and_nothing_counts_as_failed(self, serve, last_words):
        def script(sent):
            if sent.number < 20:
                return echo(sent)
            if isinstance(last_words, Cut):  # no longer listening
                server.socket.close()
            return last_words

        server, found = serve(script), []
        with pytest.raises(EngineDied):
            for done in engine(server, concurrency=1, retries=2).generate(
                asking(map(str, range(99)))
            ):
                found.append(done)
        assert len(found) == 20 and {c.finish_reason for c in found} == {"stop"}
        assert ours() == []

    def test_a_body_that_does_not_end_is_cut_off_in_time(self, serve):
        release = threading.Event()
        server = serve(lambda sent: Cut(until=release) if sent.prompt == "b" else echo(sent))
        api = engine(server, concurrency=2, retries=1, timeout_s=0.2)
        found = answers(api, asking("abcdefgh"))
        release.set()
        assert "no whole answer within 0.2 s" in found["id b"].error
        assert server.prompts.count("b") == 2 and len(found) == 8

    @pytest.mark.parametrize("status", [400, 404, 413, 422])
    def test_a_request_that_is_refused_is_an_error_with_the_servers_words(self, serve, status):
        words = {"error": {"message": "the prompt\n is too long"}}
        server = serve(lambda sent: (status, words) if sent.prompt == "b" else echo(sent))
        found = answers(engine(server, concurrency=1), asking("abc"))
        assert found["id b"].error == f"HTTP {status}: the prompt is too long"
        assert (found["id b"].text, found["id b"].finish_reason) == ("", "error")
        assert [found["id a"].text, found["id c"].text] == ["<a>", "<c>"]
        assert len(server.seen) == 3

    @pytest.mark.parametrize("finish", ["content_filter", None])
    def test_a_text_that_was_withheld_is_an_error_and_is_paid(self, serve, finish):
        api = engine(serve(lambda sent: text("half", finish)), output_price=1e6)
        [done] = api.generate(asking("a"))
        assert done.finish_reason == "error" and repr(finish) in done.error
        assert (done.text, done.new_tokens, done.cost) == ("", 2, 2)

    def test_halves_of_surrogate_pairs_do_not_come_out(self, serve):
        server = serve(lambda sent: b'{"choices": [{"text": "a\\ud83d", "finish_reason": "stop"}]}')
        [done] = engine(server).generate(asking("a"))
        assert done.text == "a\ufffd"


PERSON = json.dumps(
    {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
)
CHAT = ({"role": "user", "content": "Who?"},)


class TestSchema:
    def test_it_is_sent_and_a_wrong_answer_is_asked_for_again_with_the_reason(self, serve):
        replies = ["It was Ada.", '{"name": 3}', '```json\n{"name": "Ada",}\n```']
        server = serve(lambda sent: message(replies[sent.number], usage=(10, 5)))
        api = engine(server, input_price=1e6, output_price=2e6)
        [done] = api.generate([Request("a", CHAT, Sampling(schema=PERSON), seed=1)])
        assert json.loads(done.text) == {"name": "Ada"}
        assert (done.prompt_tokens, done.new_tokens, done.cost) == (30, 15, 60)
        bodies = [sent.body for sent in server.seen]
        assert bodies[0]["response_format"]["json_schema"]["schema"] == json.loads(PERSON)
        roles = [m["role"] for m in bodies[2]["messages"]]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        assert bodies[2]["messages"][:3] == bodies[1]["messages"]
        assert "$.name: 3 is not of type 'string'" in bodies[2]["messages"][-1]["content"]
        assert [body["seed"] for body in bodies] == [1, 2, 3]

    def test_after_two_repairs_it_is_an_error_and_everything_is_paid(self, serve):
        server = serve(lambda sent: text("no"))
        api = engine(server, output_price=1e6)
        [done] = api.generate(asking(["Who?"], Sampling(schema=PERSON)))
        assert done.finish_reason == "error" and "schema: not JSON" in done.error
        assert (done.text, done.new_tokens, done.cost) == ("", 6, 6)
        assert server.prompts == ["Who?"] * 3

    def test_an_answer_that_was_cut_off_is_not_closed_for_it(self, serve):
        server = serve(lambda sent: message('{"name": "Ada"', finish="length"))
        [done] = engine(server).generate([Request("a", CHAT, Sampling(schema=PERSON))])
        assert "cut off at max_tokens" in done.error

    def test_what_is_no_schema_is_refused_before_anything_is_sent(self, serve):
        server = serve()
        with pytest.raises(UserError, match="not a JSON schema"):
            answers(engine(server), asking("a", Sampling(schema="{")))
        assert server.seen == []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class TestUser:
    @pytest.mark.parametrize("status", [401, 403])
    def test_a_key_that_is_refused_is_one_line_with_url_and_variable(
        self, serve, monkeypatch, status
    ):
        monkeypatch.setenv("OUR_KEY", KEY)
        server = serve(lambda sent: (status, {"error": {"message": f"bad key {KEY}"}}))
        with pytest.raises(UserError) as raised:
            answers(engine(server, key_variable="OUR_KEY"), asking("abc"))
        assert server.url in str(raised.value) and "variable OUR_KEY" in str(raised.value)
        assert KEY not in str(raised.value) and "\n" not in str(raised.value)
        with pytest.raises(UserError, match="config.api.key_variable"):
            answers(engine(server), asking("abc"))

    def test_no_server_is_one_line_with_the_url(self):
        url = f"http://127.0.0.1:{free_port()}/v1"
        with pytest.raises(UserError, match=f"{url}: no connection.*start the server") as raised:
            answers(engine(url), asking("abc"))
        assert "\n" not in str(raised.value)
        assert ours() == []

    @pytest.mark.parametrize("answer", [(404, b"no such model"), (308, b"", {"location": "/v2"})])
    def test_a_place_where_nothing_is_answered_is_the_users_mistake(self, serve, answer):
        with pytest.raises(UserError, match="correct config.api.url or config.api.model"):
            answers(engine(serve(lambda sent: answer)), asking("abc"))

    @pytest.mark.parametrize(
        "fields, reason",
        [
            ({"url": f"http://u:{KEY}@host/v1"}, "config.api.url is not of the form"),
            ({"url": f"http://host/v1?key={KEY}"}, "config.api.url is not of the form"),
            ({"url": "localhost:8000"}, "config.api.url is not of the form"),
            ({"url": "http://localhost:80000"}, "config.api.url is not of the form"),
            ({"model": ""}, "config.api.model is empty"),
            ({"key_variable": KEY}, "has to be the name of an environment variable"),
            ({"key_variable": "NOT_SET_AT_ALL"}, "NOT_SET_AT_ALL holds no key"),
            ({"key_variable": "BROKEN_KEY"}, "BROKEN_KEY holds no key"),
        ],
    )
    def test_mistakes_in_the_config_are_named_and_show_no_key(self, monkeypatch, fields, reason):
        monkeypatch.setenv("BROKEN_KEY", f"{KEY}\n{KEY}")
        with pytest.raises(UserError, match=reason) as raised:
            engine("http://localhost/v1", **fields)
        assert KEY not in str(raised.value)

    def test_a_missing_package_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "httpx", None)
        with pytest.raises(UserError, match=r'pip install "sbp-jax\[api\]"'):
            engine("http://localhost/v1")

    def test_the_fingerprint_is_of_url_protocol_and_model(self):
        prints = [
            engine("http://a/v1", concurrency=3).fingerprint,
            engine("http://b/v1").fingerprint,
            engine("http://a/v1", model="n").fingerprint,
            engine("http://a/v1", protocol="anthropic").fingerprint,
        ]
        assert len(set(prints)) == 4
        assert engine("http://a/v1/").fingerprint == prints[0]


@pytest.mark.parametrize("protocol", ["openai", "anthropic"])
def test_the_key_goes_to_the_server_and_nowhere_else(serve, monkeypatch, caplog, capfd, protocol):
    """Every log at its most talkative, a server that repeats the key in all it says, and the
    tracebacks with all their variables."""
    monkeypatch.setenv("OUR_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    faults = [(401, KEY), (400, {"error": {"message": KEY}}), (500, KEY), KEY, (429, KEY), Cut()]
    faults.append((403, {"error": KEY}))
    shown = []
    for fault in faults:
        server = serve(lambda sent, fault=fault: fault)
        api = engine(server, key_variable="OUR_KEY", protocol=protocol, retries=1)
        shown += [repr(api), repr(vars(api)), repr(vars(api._endpoint)), api.fingerprint]
        try:
            shown += map(repr, api.generate(asking("ab")))
        except (UserError, EngineDied) as error:
            while error:
                lines = traceback.TracebackException.from_exception(error, capture_locals=True)
                shown += [repr(error), *(line for line in lines.format() if "fault" not in line)]
                error = error.__cause__ or error.__context__
                assert error is None  # httpx' errors would carry the request
        sent = json.dumps([s.headers for s in server.seen])
        assert server.seen and KEY in sent
    assert len(shown) > 30
    assert KEY not in "".join(shown)
    assert KEY not in caplog.text and caplog.records
    assert KEY not in "".join(capfd.readouterr())
