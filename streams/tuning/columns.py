"""Tables as text."""

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """One line of text for each line of cells, all of as many cells; the first `left` columns stand to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
