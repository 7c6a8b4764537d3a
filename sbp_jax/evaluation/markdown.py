"""Tables that are legible as they stand and render as Markdown."""

from collections.abc import Sequence


def table(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    """Of a header and rows; all but the first `left` columns are numbers."""
    cells = [[" ".join(text.split()).replace("|", "\\|") for text in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]

    def padded(line: Sequence[str]) -> str:
        texts = (
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(texts)} |\n"

    return "".join(map(padded, [cells[0], rule, *cells[1:]]))
