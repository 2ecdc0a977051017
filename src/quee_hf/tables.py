"""Tables as Markdown, for reports, model cards and documents."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as Markdown, a line for each row.

    Args:
        titles: Of the columns.
        rows: Cells, without `|` or line breaks.
    """
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
