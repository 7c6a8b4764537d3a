"""The live page's server, over real sockets: who may ask, and what is answered, unasked as well."""

import http.client
import json
import os
import signal
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

from research_env import bank
from research_env.dashboard import guard, snapshot
from research_env.dashboard.live import Live
from research_env.dashboard.server import Server
from sbp_jax.errors import UserError

_spec = util.spec_from_file_location("searches", Path(__file__).with_name("conftest.py"))
assert _spec and _spec.loader
searches = util.module_from_spec(_spec)
_spec.loader.exec_module(searches)

TOKEN = "a-token-of-some-length"


def ask(server, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def asked(server, path):
    answer, body = ask(server, path)
    assert answer.status == 200
    return json.loads(body)


@pytest.fixture
def small(search):
    made = search()
    made.baseline(3.25, 3.26)
    made.idea("first", searches.ok(3.2), log="line 1\n\x1b[31mline 2")
    return made


def test_the_page_has_a_policy_and_may_not_be_framed_or_kept(small):
    with searches.served(small.workdir) as server:
        answer, body = ask(server)
        assert answer.status == 200 and b"first" in body
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "connect-src 'self'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


OWN = ("127.0.0.1", "localhost:9", "[::1]:80", "10.1.2.3", "LOCALHOST")
OTHERS = (
    "evil.example", "evil.example:80", "localhost.evil.example", "", "127.0.0.1.evil.example",
    "[::1", "localhost:x", "a@localhost",
)  # fmt: skip


@pytest.mark.parametrize(
    "name, status", [*[(name, 200) for name in OWN], *[(name, 403) for name in OTHERS]]
)
def test_a_name_that_is_not_this_machines_is_refused(small, name, status):
    """Of another site whose name was turned to 127.0.0.1."""
    with searches.served(small.workdir) as server:
        assert ask(server, Host=name)[0].status == status
        assert ask(server, "/state?since=0", Host=name)[0].status == status


def test_it_only_reads(small):
    before = (small.workdir / bank.NAME).read_bytes()
    with searches.served(small.workdir) as server:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert ask(server, "/", method)[0].status == 501
        answer, body = ask(server, "/", "HEAD")
        assert answer.status == 200 and body == b""
        asked(server, "/idea?id=1")
    assert (small.workdir / bank.NAME).read_bytes() == before


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/idea?id=99", "/idea?id=-1", "/idea?id=x", "/idea", "/log?run=99", "/ideas.db",
     "/log?run=../1", "/../ideas.db", "/idea?id=%00", "/idea?id=99999999999999999999",
     "/idea?id=%C2%B2"],
)  # fmt: skip
def test_what_is_not_there_is_a_404(small, path):
    with searches.served(small.workdir) as server:
        assert ask(server, path)[0].status == 404


def test_an_idea_with_its_runs_and_logs(small):
    with searches.served(small.workdir) as server:
        idea = asked(server, "/idea?id=1")
        assert idea["title"] == "first" and "rate = first" in idea["diff"]
        (run,) = idea["runs"]
        assert (run["split"], run["state"], run["score"]) == ("search", "ok", 3.2)
        assert asked(server, f"/log?run={run['id']}") == "line 1\nline 2"
        assert asked(server, "/context?id=1") == ""


def test_the_token_is_asked_for_once_and_kept_in_a_cookie(small):
    with searches.served(small.workdir, token=TOKEN) as server:
        for path in ("/", "/state?since=0", "/idea?id=1", "/?token=wrong", "/events"):
            assert ask(server, path)[0].status == 403
        answer, _ = ask(server, f"/?token={TOKEN}")
        assert answer.status == 303 and answer.headers["Location"] == "/"
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
        assert ask(server, Cookie=cookie.split(";")[0])[0].status == 200
        assert ask(server, Cookie=cookie.split("=")[0] + "=other")[0].status == 403
        assert ask(server, Cookie="=;\x7f,,")[0].status == 403


def test_beyond_this_machine_a_token_is_needed(small):
    live = Live(small.workdir)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match="--token is needed"):
            Server(live, host, 0)
    with pytest.raises(UserError, match="16 printable"):
        Server(live, "127.0.0.1", 0, "short")
    with searches.served(small.workdir, "0.0.0.0", TOKEN) as server:
        assert ask(server)[0].status == 403
        assert ask(server, f"/?token={TOKEN}", Host="evil.example")[0].status == 403


@pytest.mark.parametrize("header", [None, "a:b:c", "::1", " ", "[]", "[::1]x"])
def test_host_headers_that_are_none_name_nobody(header):
    assert not guard.is_ours(header, "127.0.0.1")


def test_a_change_is_told_at_once_and_sent_alone(small):
    with searches.served(small.workdir) as server:
        whole = asked(server, "/state?since=0")
        assert whole["all"] and len(whole["rows"]) == 2
        connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
        connection.request("GET", "/events")
        events = connection.getresponse()
        assert events.headers["Content-Type"] == "text/event-stream"
        assert events.readline() == b"data: %d\n" % whole["revision"]
        small.idea("second", searches.ok(3.1))
        assert events.readline() == b"\n"
        revision = int(events.readline().removeprefix(b"data: "))
        assert revision > whole["revision"]
        rows = {}
        known = whole
        while not rows.get(2, [None] * 4)[3]:  # it was queued, ran, and ended: three changes
            known = asked(server, f"/state?epoch={known['epoch']}&since={known['revision']}")
            assert not known["all"] and all(row[0] == 2 for row in known["rows"])
            rows |= {row[0]: row for row in known["rows"]}
        assert rows[2][:4] == [2, "second", "ok", 3.1]
        assert "second" in known["sections"]["headline"] and "header" not in known["sections"]
        connection.close()


def test_another_search_in_the_same_place_is_shown_instead(small, search):
    with searches.served(small.workdir) as server:
        before = asked(server, "/state?since=0")
        other = search("other", env="another")
        other.baseline(1.0)
        other.bank.close()
        for name in ("ideas.db-wal", "ideas.db-shm"):
            (small.workdir / name).unlink(missing_ok=True)
        os.replace(other.workdir / bank.NAME, small.workdir / bank.NAME)
        now = asked(server, f"/state?epoch={before['epoch']}&since={before['revision']}")
        assert now["all"] and now["facts"]["title"] == "another"
        assert [row[3] for row in now["rows"]] == [1.0]


def test_it_says_whether_a_search_is_running(small):
    lock = small.workdir / bank.LOCK
    gone = subprocess.Popen(["true"])
    gone.wait()
    with searches.served(small.workdir) as server:
        for said, running in (("", None), (str(gone.pid), False), (str(os.getpid()), True)):
            lock.write_text(said)
            assert asked(server, "/state?since=0")["facts"]["running"] is running


def test_the_command_serves_until_ctrl_c_and_does_not_print_the_token(small):
    command = [sys.executable, "-m", "research_env.dashboard", str(small.workdir), "--port=0"]
    with subprocess.Popen(
        [*command, f"--token={TOKEN}"], stderr=subprocess.PIPE, text=True
    ) as process:
        address = process.stderr.readline()
        assert address.startswith("http://127.0.0.1:") and TOKEN not in address
        port = int(address.split(":")[2].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == "The dashboard has ended; the search has not.\n"


def test_a_mistake_is_one_line(tmp_path, small):
    for arguments, said in (
        ([str(tmp_path / "none")], "no ideas.db in it: python -m research_env.search makes it"),
        ([str(small.workdir), "--host=0.0.0.0"], "--token is needed too"),
        ([], "WORKDIR is missing"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "research_env.dashboard", *arguments],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_what_is_read_in_part_is_what_is_read_whole(search):
    """After any change that a search makes."""
    made = search()
    made.baseline(3.2, 3.3)
    reader = snapshot.Reader(made.workdir / bank.NAME)

    def same():
        whole = snapshot.Reader(made.workdir / bank.NAME)
        parts, all_of_it = reader.snapshot(), whole.snapshot()
        whole.close()
        assert parts.rows == all_of_it.rows and parts.retests == all_of_it.retests

    same()
    made.idea("waits")
    made.idea("crashes", searches.failed(searches.State.CRASHED))
    same()
    made.bank.claim()
    same()
    made.run(2, searches.ok(3.0), attempt=1)  # again, beside the search
    made.bank.conclude(2)
    same()
    made.bank.promote(2)
    made.bank.set("phase", "selection")
    same()
    made.run(2, searches.ok(3.1), "selection", 9)
    same()
    reader.close()
