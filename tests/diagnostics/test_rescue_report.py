"""Tests of `quee_hf.diagnostics.rescue_report`."""

import torch

from quee_hf.diagnostics.rescue import compare_with_control, describe_rescue
from quee_hf.diagnostics.rescue_report import control_table, rescue_table


def pair(early, full):
    return torch.tensor(early, dtype=torch.bool), torch.tensor(full, dtype=torch.bool)


QUANTIZED = pair([1, 1, 1, 0], [1, 0, 0, 1])
CONTROL = pair([1, 1, 0, 1], [1, 0, 0, 1])


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_table_of_quadrants():
    table, test = rescue_table(describe_rescue(*QUANTIZED)).split("\n\n")
    rows = cells(table)
    assert {len(row) for row in rows} == {3}
    assert [row[:2] for row in rows[2:]] == [
        ["both right", "1"],
        ["rescue: early right, full wrong", "2"],
        ["loss: early wrong, full right", "1"],
        ["both wrong", "0"],
        ["net: rescue − loss", "+1"],
    ]
    assert rows[3][2] == "50.00 (15.00 to 85.00)"  # Wilson's interval of 2 in 4
    assert rows[6][2].startswith("+25.00 (-")
    assert test == (
        "4 images; accuracy 75.00 % leaving early, 50.00 % with the whole network; McNemar's exact test: p = 1."
    )


def test_table_beside_the_control():
    compared = compare_with_control(QUANTIZED, CONTROL, num_resamples=50)
    rows = cells(control_table(compared))
    assert {len(row) for row in rows} == {4}
    assert rows[0][1:] == ["quantized", "full precision", "difference"]
    found = {row[0]: row[1:] for row in rows[2:]}
    assert found["accuracy, leaving early"] == ["75.00", "75.00", ""]
    assert found["rescue"][1].startswith("25.00 (")
    assert found["rescue"][2].startswith("+25.00 (+0.00 to +")
    assert found["net"][2].startswith("+0.00 (-")
    assert found["McNemar's p"] == ["1", "1", ""]
