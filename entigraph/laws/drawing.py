"""A figure as a PNG that is never half there."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbp_jax import files


@contextlib.contextmanager
def picture(path: Path, title: str, x: str, y: str) -> Iterator[Any]:
    """The axes to draw on; at the end what was drawn is at `path`."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
             "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}  # fmt: skip
    with matplotlib.rc_context(style):
        canvas = Figure(figsize=(9, 4.8), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(title, loc="left", fontsize=11, parse_math=False)
        axes.set(xlabel=x, ylabel=y)
        yield axes
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3)
        written = io.BytesIO()
        canvas.savefig(written, format="png", dpi=120)
    files.write_bytes(path, written.getvalue())
