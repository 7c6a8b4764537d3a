"""The report of the loop: one page that needs nothing beside it, and its figures as PNGs.

    python -m sbp_jax.report runs/bootstrap
    python -m sbp_jax.report runs/bootstrap/report/results.json

remakes it from the results, which hold all that it shows.
"""

from sbp_jax import cli

if __name__ == "__main__":
    cli.end_at_interrupt()  # before the slow imports

import json
import logging
from importlib import resources
from pathlib import Path
from typing import Any

from sbp_jax import files
from sbp_jax.errors import UserError
from sbp_jax.reporting import plots, sections
from sbp_jax.reporting.figures import NAMES, STYLES, figures
from sbp_jax.reporting.markup import Markup, tag

log = logging.getLogger(__name__)
RESULTS = "results.json"
# Whatever a text on the page might be: no script runs and nothing is fetched.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def main(place: str) -> None:
    path = results_file(Path(place))
    log.info("%s", write_report(path.parent, read_results(path)))


def results_file(place: Path) -> Path:
    """The file itself, or that of a workdir or of a report's folder."""
    if not place.is_dir():
        return place
    for path in (place / "report" / RESULTS, place / RESULTS):
        if path.exists():
            return path
    raise UserError(f"{place}: no report/{RESULTS}: sbp_jax.bootstrap writes it; run that first")


def read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); sbp_jax.bootstrap writes it anew") from error
    if not isinstance(results, dict) or "arms" not in results:
        raise UserError(f"{path}: no results of sbp_jax.bootstrap, whose arms it would name")
    return results


def write_report(folder: Path, results: dict[str, Any]) -> Path:
    """Makes `folder`/index.html, which is returned, and a PNG of each figure."""
    made = figures(results)
    for name in NAMES:
        if name in made:
            files.write_bytes(folder / f"{name}.png", plots.png(made[name]))
        else:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of other results
    files.write_bytes(folder / "index.html", page(results).encode())
    return folder / "index.html"


def page(results: dict[str, Any]) -> str:
    foot = f"Made by sbp_jax from {RESULTS}, which holds every figure of this page."
    return document(sections.title(results), sections.page(results, figures(results)), foot)


def document(title: str, content: Markup, foot: str) -> str:
    """A page in our style, which other packages' reports have as well."""
    head = tag(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", title),
        tag("style", Markup(style())),
    )
    body = tag("body", content, tag("footer", foot))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def style() -> str:
    colours = [
        "".join(f"--c{i}:{getattr(colour, theme)};" for i, colour in enumerate(STYLES))
        for theme in ("light", "dark")
    ]
    page = resources.files("sbp_jax.reporting").joinpath("page.css").read_text(encoding="utf-8")
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {colours[1]} }} }}"
    return f":root {{ {colours[0]} }}\n{dark}\n@media print {{ :root {{ {colours[0]} }} }}\n{page}"


if __name__ == "__main__":
    cli.run(main, needs=(), arguments=("RESULTS_JSON_OR_WORKDIR",))
