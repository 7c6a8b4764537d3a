"""What a search found and is doing, as a live page on this machine.

    python -m research_env.dashboard runs/research
    python -m research_env.dashboard runs/research --host=0.0.0.0 --token=$TOKEN

It only reads. With a host other than this machine, whoever knows the token may look; over a network
that others listen to, a tunnel is better: ssh -L 8321:127.0.0.1:8321 MACHINE.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import logging
from pathlib import Path

from absl import flags

from research_env.dashboard.live import Live
from research_env.dashboard.server import Server

HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on.", allow_override=True)
PORT = flags.DEFINE_integer("port", 8321, "Its port; 0 takes a free one.", allow_override=True)
TOKEN = flags.DEFINE_string("token", "", "Asked of everyone who looks.", allow_override=True)
log = logging.getLogger(__name__)


def main(workdir: str) -> None:
    live = Live(Path(workdir))
    with Server(live, HOST.value, PORT.value, TOKEN.value) as server:
        live.watch()
        # Not the token: a terminal is shown to others, and scrolled back in.
        log.info("%s%s", server.address, "?token=..." if TOKEN.value else "")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            log.info("The dashboard has ended; the search has not.")


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("WORKDIR",))
