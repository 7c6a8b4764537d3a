"""What every command does with Ctrl-C, wherever it falls."""

import signal
import subprocess
import sys

IN_A_CALLBACK = """
import gc, os, signal, time
from sbp_jax import cli

def main():
    def callback(phase, info):
        gc.callbacks.remove(callback)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    gc.callbacks.append(callback)
    gc.collect()
    time.sleep(600)

cli.run(main, needs=())
"""


def test_ctrl_c_in_a_callback_of_the_garbage_collector_is_heeded():
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CALLBACK], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 128 + signal.SIGINT
    assert done.stderr == "interrupted; resume with the same command\n"
