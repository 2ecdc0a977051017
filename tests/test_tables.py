"""Tests of Markdown tables."""

from quee_hf.tables import markdown_table


def test_a_line_for_titles_rule_and_each_row():
    table = markdown_table(["block", "cost"], iter([["3", "0.25"], ["", "1"]]))
    assert table.splitlines() == ["| block | cost |", "| --- | --- |", "| 3 | 0.25 |", "|  | 1 |"]


def test_no_rows():
    assert markdown_table(["a"], []) == "| a |\n| --- |"
