"""Tests of `quee_hf.processes`: what a process knows of others, before it has met them."""

import pytest
import torch
from accelerate import PartialState
from tests.tiny import images, routable
from torch.utils.data import IterableDataset

from quee_hf import QuEEError, recommended_arguments
from quee_hf.build.run_directory import RunDirectory
from quee_hf.execution.path_outputs import collect_path_outputs
from quee_hf.processes import check_alone, is_main_process, meet, num_processes
from quee_hf.training.exit_heads import collect_exit_features


@pytest.fixture
def second_of_two(monkeypatch):
    PartialState(cpu=True)  # set up for one process, as by arguments that do not say `use_cpu`
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)


def test_one_process_is_alone_and_the_main_one(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "8")  # some schedulers set it for all they start
    assert num_processes() == 1
    assert is_main_process()
    check_alone("This")
    assert not recommended_arguments("x").use_cpu


def test_the_second_of_two_is_not_the_main_one(second_of_two):
    assert num_processes() == 2
    assert not is_main_process()
    with pytest.raises(QuEEError, match="This runs in one process, but 2 were started together: start one."):
        check_alone("This")


def test_accelerate_must_know_of_the_others(second_of_two):
    with pytest.raises(
        QuEEError, match="2 processes .* but accelerate was set up for one: on CPUs, give `use_cpu"
    ):
        meet(torch.device("cpu"))


def test_only_a_data_set_with_a_length_can_be_shared(second_of_two):
    class Stream(IterableDataset):
        def __iter__(self):
            raise AssertionError("It is not to be read.")

    with pytest.raises(TypeError, match="Several processes need a data set with a length, got Stream"):
        collect_path_outputs(routable(levels=["fp32"]), Stream())


def test_views_of_images_are_for_one_process(second_of_two):
    items = [{"pixel_values": images(1)[0], "labels": 0}]
    with pytest.raises(QuEEError, match="Looking at images more than once runs in one process"):
        collect_exit_features(routable(levels=["fp32"]), items, num_views=2)


def test_a_run_directory_is_not_shared(second_of_two, tmp_path):
    with (
        pytest.raises(QuEEError, match="A build runs in one process"),
        RunDirectory(tmp_path / "run").locked(),
    ):
        pass
    assert not (tmp_path / "run").exists()
