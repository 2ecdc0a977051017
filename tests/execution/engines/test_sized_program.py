"""Tests of `SizedProgram`: which batch sizes a graph is compiled for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from quee_hf.execution.engines.sized_program import SizedProgram


@pytest.fixture
def compiled():
    """What was compiled for, in order; `None` stands for any size."""
    return []


@pytest.fixture
def program(compiled):
    def compile(size):
        compiled.append(size)

        def run(inputs):
            assert size in (None, len(inputs[0]))
            return [torch.full((1,), -1 if size is None else size)]

        return run

    return SizedProgram(compile)


def run(program, *sizes):
    """Return for which size the program was that ran each batch; -1 stands for any."""
    return [int(program([torch.zeros(size, 2)])[0]) for size in sizes]


def test_the_first_size_is_compiled_for_and_nothing_else(program, compiled):
    assert run(program, *[5] * 20) == [5] * 20
    assert compiled == [5]


def test_another_size_is_compiled_for_any(program, compiled):
    assert run(program, 5, 3, 4, 5) == [5, -1, -1, -1]  # what ran once is not kept
    assert compiled == [5, None]


def test_what_was_used_often_is_kept_beside_it(program, compiled):
    run(program, *[5] * 8)
    assert run(program, 3, 5, 4) == [-1, 5, -1]
    assert compiled == [5, None]


def test_a_size_that_comes_often_is_compiled_for(program, compiled):
    run(program, 3, 7)
    assert run(program, *[5] * 9) == [-1] * 7 + [5] * 2
    assert run(program, 7, 5) == [-1, 5]
    assert compiled == [3, None, 5]


def test_sizes_that_take_turns_are_compiled_for_ever_more_rarely(program, compiled):
    for _ in range(20):
        run(program, *[5] * 10, *[6] * 10)
    assert len(compiled) <= 4
    run(program, *[6] * 1000)
    assert run(program, 6) == [6]


def test_no_images_are_no_size_to_compile_for(program, compiled):
    assert run(program, 0, 0, 5) == [-1, -1, -1]
    assert compiled == [None]


def test_threads_compile_once(program, compiled):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: run(program, 5)[0], range(50)))
    assert set(found) == {5}
    assert compiled == [5]


def test_what_could_not_be_compiled_is_tried_again():
    def fail(size):
        raise ValueError("not on this processor")

    program = SizedProgram(fail)
    for _ in range(2):
        with pytest.raises(ValueError, match="processor"):
            run(program, 5)
