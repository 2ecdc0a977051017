"""Damaged JSON is refused in clear words, or means what it says."""

import pytest
from tests.faults.jsons import judged, readers


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {reader.name: reader for reader in readers(tmp_path_factory.mktemp("files"))}


@pytest.mark.filterwarnings("ignore")  # transformers warns of fields that make no sense
@pytest.mark.parametrize(
    ("name", "count"), [("config.json", 150), ("router.json", 60), ("done.json", 100), ("recipe.yaml", 30)]
)
def test_no_damage_does_harm(files, name, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdicts = judged(files[name], count)
    assert [verdict for verdict in verdicts if verdict.is_harm] == []
    assert len({verdict.outcome for verdict in verdicts}) > (name == "config.json")
