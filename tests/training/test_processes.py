"""Trainers and collection in two processes: what they find is what one process finds."""

import textwrap
from pathlib import Path

import pytest
import torch
from tests.launching import EACH_LAUNCHER, launch
from tests.training import in_processes
from tests.training.in_processes import COUNTS, everything

TRAININGS = (
    *("heads", "heads on the fly", "heads, gradients of two batches"),
    *("heads, attention", "heads, attention, gradients of two batches"),
    *("gates", "gates, clusters", "gates, lra"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=EACH_LAUNCHER)
def both(request, tmp_path_factory):
    """Return what each of two processes found, and what they printed."""
    folder = tmp_path_factory.mktemp(request.param)
    done = launch([in_processes.__file__, folder], launcher=request.param)
    assert done.returncode == 0, done.stderr
    found = [torch.load(folder / f"process-{number}.pt") for number in (0, 1)]
    assert [each["processes"] for each in found] == [2, 2]
    return found, done


@pytest.mark.parametrize("count", COUNTS)
def test_collected_is_the_same_in_the_same_order(alone, both, count):
    """Bit by bit: the batches are the same ones."""
    for found in both[0]:
        for part, expected in zip(found["collected"][count], alone["collected"][count], strict=True):
            assert torch.equal(part, expected)


@pytest.mark.parametrize("name", TRAININGS)
def test_training_gives_the_same(alone, both, name):
    """Sums come in another order: 1e-7 of each gradient, which Adam's steps of up to 3e-2 do not blow up."""
    expected = alone[name]
    for found in (each[name] for each in both[0]):
        torch.testing.assert_close(found["losses"], expected["losses"], rtol=1e-4, atol=1e-5)
        for part, weight in expected["weights"].items():
            torch.testing.assert_close(found["weights"][part], weight, rtol=1e-3, atol=1e-4)
    first, second = (each[name]["weights"] for each in both[0])
    assert all(torch.equal(first[part], second[part]) for part in first)


def test_one_of_them_writes_and_shows(both):
    found, done = both
    first, second = (each["written"] for each in found)
    assert any(Path(path).name == "config.json" for path in first)
    # Each keeps its own state of random numbers in a checkpoint.
    assert {Path(path).name for path in second} <= {"rng_state_1.pth"}
    assert done.stdout.count("'eval_loss'") == done.stdout.count("'eval_runtime'")


def test_an_error_in_one_process_ends_both(tmp_path):
    code = """
        import os
        from tests.training.in_processes import *

        class Damaged(list):
            def __getitem__(self, row):
                if os.environ["RANK"] == "1" and row == 7:
                    raise OSError("row 7 is damaged")
                return super().__getitem__(row)

        collect_path_outputs(untrained(), Damaged(noisy_copies(20)), batch_size=4)
        print("all collected")
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    done = launch([script], folder=tmp_path)
    assert done.returncode != 0
    assert "OSError: row 7 is damaged" in done.stderr
    assert "all collected" not in done.stdout


def test_processes_take_leave_before_they_end(tmp_path):
    code = """
        import atexit
        import torch
        from quee_hf.processes import meet

        atexit.register(lambda: print(f"group left: {not torch.distributed.is_initialized()}"))
        for _ in range(2):
            meet(torch.device("cpu"))
        assert torch.distributed.is_initialized()
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    done = launch([script], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("group left: True") == 2
