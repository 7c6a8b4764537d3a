"""A model that is a script: a server on this machine that speaks OpenAI's protocol; and a small
environment for its ideas.
"""

import contextlib
import json
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class ScriptedModel(ThreadingHTTPServer):
    """Answers with what `script(conversation)` returns: a text, or (status, headers). Notes all
    that it was sent."""

    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def __init__(self, script):
        self.script, self.seen, self.failed, self.lock = script, [], [], threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        """Clients drop what they need no longer."""

    def prompts(self, having=""):
        """The first message of each conversation."""
        with self.lock:
            return [sent[0]["content"] for sent in self.seen if having in sent[0]["content"]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        messages = body.get("messages") or [{"role": "text", "content": body["prompt"]}]
        with self.server.lock:
            self.server.seen.append(messages)
        try:
            answer = self.server.script(messages)
        except Exception:  # else it would be asked again and again
            self.server.failed.append(traceback.format_exc())
            answer = 400, {}
        status, headers = (200, {}) if isinstance(answer, str) else answer
        if status == 200:
            choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
            if "prompt" in body:
                choice = {"finish_reason": "stop", "text": answer}
            usage = {"prompt_tokens": 100, "completion_tokens": 10}
            data = json.dumps({"choices": [choice], "usage": usage}).encode()
        else:
            data = b'{"error": {"message": "not now"}}'
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def serve():
    """Starts scripted models; at the end all are gone."""
    servers = []
    with contextlib.ExitStack() as stack:

        def start(script):
            server = ScriptedModel(script)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            servers.append(server)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            stack.callback(server.server_close)
            return server

        yield start
    assert [failure for server in servers for failure in server.failed] == []


ENV_TOML = """
name = "parabola"
description = "Choose X in settings.py: the score is highest at a place that nobody tells."
[metric]
name = "height"
direction = "maximize"
valid = [-1000, 1000]
[paths]
editable = ["settings.py", "extra/**"]
[run]
command = "bash run.sh"
[run.limits]
wall_seconds = 20
memory_mb = 512
[score]
[splits]
"""
SETTINGS = "X = 0.0\nSTEPS = 10\n"
MAIN = """\
import os
import settings

os.makedirs("artifact", exist_ok=True)
with open("artifact/x.txt", "w") as file:
    file.write(str(float(settings.X)))
"""
SCORE = """\
import json, os, random
x = float(open("/artifact/x.txt").read())
noise = random.Random(os.environ["SEED"]).gauss(0, 0.01)
print(json.dumps({"score": 10 - (x - 3) ** 2 + noise}))
"""


@pytest.fixture
def parabola(tmp_path):
    """The folder of an environment whose runs take a moment."""
    folder = tmp_path / "parabola"
    for path, text in {
        "env.toml": ENV_TOML,
        "code/settings.py": SETTINGS,
        "code/main.py": MAIN,
        "code/run.sh": "python main.py\n",
        "eval/score.py": SCORE,
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder
