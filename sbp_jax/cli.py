"""What every command shares: `--config` and `--workdir`, and how errors reach a person.

Only light modules are imported here, so that `--help` and a misspelt flag answer at once.
"""

import atexit
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from sbp_jax import config as config_lib
from sbp_jax.errors import DISK_ERRORS, UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment file, with words after a colon: configs/laptop.py:quick.",
    lock_config=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: local path or object storage.")


def use_huge_pages() -> None:
    """Starts this program anew, once, with memory in huge pages where Linux gives them on request.

    XLA:CPU takes the temporaries of each step from malloc and returns them after it. In pages of 4
    KiB, all new in every step, that is a third of a small model's time (docs/performance.md); glibc
    asks for larger ones only if it was told so when the process began. A debugger would lose its
    breakpoints: GLIBC_TUNABLES=glibc.malloc.hugetlb=0 leaves the program as it is.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    try:
        setting = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:  # not Linux, or a container that hides it
        return
    if "[madvise]" in setting and "glibc.malloc.hugetlb" not in tunables and sys.executable:
        ours = "glibc.malloc.hugetlb=1"
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{ours}" if tunables else ours
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def end_at_interrupt() -> None:
    """Until `run` begins, Ctrl-C ends the program without a word. Left to Python, one that falls
    into the import of JAX is a long traceback, or is lost in a callback of the garbage collector.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def ending_at_interrupt() -> Iterator[None]:
    """The same for slow imports that come later, while nothing is written."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is signal.default_int_handler:
            signal.signal(signal.SIGINT, before)


def run(
    main: Callable[..., None],
    needs: tuple[str, ...] = ("config", "workdir"),
    arguments: tuple[str, ...] | None = (),
) -> None:
    """Parses the flags and calls `main` with the arguments beside them: those named here, or any
    number; a user's mistake is one line on stderr and exit code 2.
    """

    def with_errors(argv: list[str]) -> None:
        # Here, because absl puts its own handler in place before it calls this.
        logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
        for own in ("sbp_jax", "__main__"):  # `python -m` names the entry point so
            logging.getLogger(own).setLevel(logging.INFO)
        absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells every step it takes
        # and shows a traceback for each error of its threads, which it then raises here as well.
        for chatty in ("absl", "asyncio"):
            logging.getLogger(chatty).addFilter(lambda record: not record.exc_info)
        sys.unraisablehook = _unraisable
        given = argv[1:]
        named = given if arguments is None else arguments
        if len(given) > len(named):
            raise UserError(f"unexpected argument {given[len(named)]!r}; flags begin with --")
        if len(given) < len(named):
            raise UserError(f"{named[len(given)]} is missing; see --help")
        for name in needs:
            if flags.FLAGS[name].value in (None, ""):  # as --output=$UNSET is
                raise UserError(f"--{name} is missing; see --help")
        main(*given)
        if "vllm" in sys.modules:
            _end_without_destructors()

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app.run(with_errors, flags_parser=_parse)
    except (UserError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DISK_ERRORS:
            raise
        print(f"error: {error}", file=sys.stderr)
        # Threads of a half-started run (prefetch, checkpoints) must not hold the exit back.
        sys.stderr.flush(), sys.stdout.flush()
        os._exit(2)
    except KeyboardInterrupt:
        # A second one, in the loop of training, which saves at the first; or one before it began.
        print("interrupted; resume with the same command", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGINT)


def _end_without_destructors() -> None:
    """Those of the native threads that vLLM, Ray, torch and JAX bring into one process abort it now
    and then, when all its work is done. What Python itself has to end is ended here.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(0)


def experiment() -> config_lib.Experiment:
    """The validated experiment of `--config` and its overrides."""
    return config_lib.resolve(CONFIG.value)


def _unraisable(ignored: Any) -> None:
    """Without the complaint of TensorStore's threads, when a second write fails, that Orbax closed
    its event loop at the first: the first is raised where the run waits for its checkpoint.
    """
    if isinstance(ignored.exc_value, KeyboardInterrupt):
        # It fell into a callback, which this still is part of: once more when that is over.
        again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    elif str(ignored.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(ignored)


def _parse(argv: list[str]) -> list[str]:
    try:
        if any(a.lstrip("-") in ("help", "helpfull", "helpshort") for a in argv[1:]):
            print(_help())
            sys.exit(0)
        rest = flags.FLAGS(argv)
        if CONFIG.value:
            CONFIG.value.keys()  # a file that could not be read is reported only on use
        return rest
    except SystemExit:
        raise
    except Exception as error:  # whatever a config file raises is its author's to fix
        raise UserError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    """The innermost cause in one line, without the traceback that config_flags folds into its
    message.
    """
    root = error
    while deeper := root.__cause__ or root.__context__:
        root = deeper
    if isinstance(root, UserError):
        return str(root)
    missing = re.search(r"No such file or directory: '(.+)'", str(root))
    if missing:
        return f"--config: no such file: {missing[1]}"
    if isinstance(root, KeyError) and root.args:
        return config_lib.unknown_field(
            str(root.args[0]).split("'")[1] if "'" in str(root.args[0]) else root.args[0]
        )
    return " ".join(str(error if isinstance(error, flags.Error) else repr(root)).split())


def _help() -> str:
    main = sys.modules["__main__"]
    own = "".join(flags.FLAGS.module_help(module) for module in (main.__name__, __name__))
    fields = "--config.SECTION.FIELD=VALUE overrides a field; sbp_jax/config.py explains them all."
    return f"{(main.__doc__ or '').strip()}\n{own}\n\n{fields}"
