"""The dashboard as a file that can be kept and sent: W/report/index.html, and results.json."""

from pathlib import Path
from typing import Any

from research_env import bank
from research_env.dashboard import details, page, snapshot
from research_env.dashboard.comparisons import compare
from research_env.dashboard.figures import figures
from research_env.dashboard.snapshot import Snapshot
from sbp_jax import files

RESULTS = "results.json"
MOST_BYTES = 12_000_000  # of all ideas' details; the best ideas' come first
LOG = 6_000  # bytes of each run's


def write(workdir: Path) -> Path:
    """Makes W/report anew from the bank, and returns its page."""
    file = snapshot.path(workdir)
    reader = snapshot.Reader(file)
    try:
        found = reader.snapshot()
    finally:
        reader.close()
    folder = workdir / "report"
    with bank.Bank(file) as opened:
        kept = _details(opened, workdir, found)
    written = page.document(found, page.FILE, {}, kept)
    files.write_json(folder / RESULTS, figures(found, compare(found)))
    files.write_bytes(folder / "index.html", written.encode())
    return folder / "index.html"


def _details(opened: bank.Bank, workdir: Path, found: Snapshot) -> dict[str, Any]:
    """Of as many ideas as there is room for; the others are in the bank."""
    sign = -1 if found.maximize else 1
    order = sorted(
        found.rows,
        key=lambda row: (
            not row.promoted, row.id != 0, row.score is None, sign * (row.score or 0.0), row.id
        ),
    )  # fmt: skip
    kept: dict[str, Any] = {}
    room = MOST_BYTES
    for row in order:
        made = details.idea(opened, row.id)
        for run, shown in zip(opened.runs(row.id), made["runs"], strict=True):
            shown["text"] = details.log_of(run, workdir, LOG)
        room -= len(page.in_script(made))
        if room < 0:
            break
        kept[str(row.id)] = made
    return kept
