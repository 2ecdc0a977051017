"""Tests of what is known of the machine."""

import warnings

import pytest
import torch
from tests.profiles import make_profile

from quee_hf import machine
from quee_hf.machine import this_machine, warn_if_elsewhere

CPU = torch.device("cpu")
CPUINFO = """processor\t: 0
model name\t: Abacus 9000
flags\t\t: fpu avx2 avx512_vnni amx_int8

processor\t: 1
model name\t: Abacus 9000
flags\t\t: fpu avx2 avx512_vnni amx_int8
"""


@pytest.fixture(autouse=True)
def _forgetful():
    """Nothing is remembered of other tests."""
    for cached in (machine._processor, machine._instruction_sets, machine._warn):
        cached.cache_clear()
    yield
    for cached in (machine._processor, machine._instruction_sets, machine._warn):
        cached.cache_clear()


@pytest.fixture
def abacus(tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    file.write_text(CPUINFO)
    monkeypatch.setattr(machine, "_CPUINFO", file)


def test_linux_says_what_it_is(abacus):
    assert this_machine(CPU) == {
        "processor": "Abacus 9000",
        "instruction_sets": ["avx2", "avx512_vnni", "amx_int8"],
    }


def test_elsewhere_there_is_a_name_at_least(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "nothing")
    found = this_machine(CPU)
    assert found["processor"]
    assert found["instruction_sets"] == []


class TestWarning:
    def test_none_where_it_was_measured(self, abacus):
        warn_if_elsewhere(make_profile(2, 2), "torch", CPU)

    def test_names_both_engines_and_processors_once(self, abacus):
        profile = make_profile(2, 2)
        with pytest.warns(UserWarning, match="'torch' on Abacus 9000, but .* 'openvino' on Abacus 9000"):
            warn_if_elsewhere(profile, "openvino", CPU)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_elsewhere(profile, "openvino", CPU)
        elsewhere = make_profile(2, 2, machine={"processor": "Slide rule", "instruction_sets": []})
        with pytest.warns(UserWarning, match="'torch' on Slide rule, but .* 'torch' on Abacus 9000"):
            warn_if_elsewhere(elsewhere, "torch", CPU)
