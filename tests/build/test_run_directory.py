"""Tests of `quee_hf.build.run_directory`: what is there is complete, whatever happened before."""

import json
import time

import pytest
from tests.builds import start

from quee_hf.build.files import write_json
from quee_hf.build.run_directory import RunDirectory
from quee_hf.errors import QuEEError


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    with directory.locked():
        pass
    return directory


def make_stage(directory: RunDirectory, name: str, content: str) -> None:
    with directory.building(name) as folder:
        (folder / "weights").write_text(content)
        directory.write_done(folder, {"hash": content})


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_stage_is_complete_and_described(directory):
    make_stage(directory, "1-a", "x")
    assert directory.read_done("1-a")["hash"] == "x"
    assert set(directory.read_done("1-a")["files"]) == {"weights"}


def test_failed_stage_leaves_the_old_one(directory):
    make_stage(directory, "1-a", "old")

    def fail():
        with directory.building("1-a") as folder:
            (folder / "weights").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert directory.read_done("1-a")["hash"] == "old"
    assert [path.name for path in directory.stages.iterdir()] == ["1-a"]


def test_new_stage_replaces_all_of_the_old_one(directory):
    make_stage(directory, "1-a", "old")
    (directory.stage("1-a") / "leftover").write_text("")
    make_stage(directory, "1-a", "new")
    assert {path.name for path in directory.stage("1-a").iterdir()} == {"weights", "done.json"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "weights").write_text("other"),
        lambda folder: (folder / "weights").unlink(),
        lambda folder: (folder / "done.json").unlink(),
        lambda folder: (folder / "done.json").write_text("{"),
        lambda folder: (folder / "done.json").write_text("[]"),
        lambda folder: (folder / "done.json").write_text('{"files": 3}'),
        lambda folder: change(folder / "done.json", '"hash": "x"', '"hash": "y"'),
    ],
    ids=["changed", "file missing", "not marked", "half a mark", "a list", "no files", "another mark"],
)
def test_damaged_stage_does_not_count(directory, damage):
    make_stage(directory, "1-a", "x")
    damage(directory.stage("1-a"))
    assert directory.read_done("1-a") is None


def test_tidies_up_after_a_kill_in_a_stage(directory):
    (directory.stages / ".1-a.building-x").mkdir()
    (directory.stages / ".1-a.building-x" / "weights").write_text("half")
    (directory.root / ".report.json.building-7").write_text("{")
    with directory.locked():
        assert [path.name for path in directory.stages.iterdir()] == []
        assert not list(directory.root.glob(".report*"))


def test_restores_what_a_kill_between_two_renames_took_away(directory):
    make_stage(directory, "1-a", "old")
    directory.stage("1-a").rename(directory.stages / ".1-a.replaced-x")
    with directory.locked():
        assert directory.read_done("1-a")["hash"] == "old"


def test_drops_the_old_stage_after_a_kill_before_its_removal(directory):
    make_stage(directory, "1-a", "old")
    directory.stage("1-a").rename(directory.stages / ".1-a.replaced-x")
    make_stage(directory, "1-a", "new")
    with directory.locked():
        assert directory.read_done("1-a")["hash"] == "new"
        assert [path.name for path in directory.stages.iterdir()] == ["1-a"]


def test_publishing_is_whole_and_only_if_needed(directory):
    make_stage(directory, "1-a", "x")
    files = directory.read_done("1-a")["files"]
    assert directory.publish("1-a", files)
    assert (directory.root / "model" / "weights").read_text() == "x"
    assert not directory.publish("1-a", files)
    (directory.root / "model" / "weights").write_text("edited")
    assert directory.publish("1-a", files)
    assert (directory.root / "model" / "weights").read_text() == "x"


_HOLD = """
import pathlib, time
from quee_hf.build.run_directory import RunDirectory
with RunDirectory(path).locked():
    pathlib.Path(path, "is-held").touch()
    time.sleep(60)
"""


def test_lock_is_for_one_process_and_dies_with_it(directory):
    holder = start(_HOLD, {"path": str(directory.root)})
    while not (directory.root / "is-held").exists():
        assert holder.is_alive()
        time.sleep(0.01)
    with pytest.raises(QuEEError, match=rf"at work in .* \(process {holder.pid}\)"), directory.locked():
        pass
    holder.kill()
    holder.join()
    with directory.locked():
        pass


@pytest.mark.parametrize("name", ["recipe.yaml", "stages", ".lock"])
def test_a_directory_of_an_earlier_build_is_accepted(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").write_text("")
    RunDirectory(tmp_path)


def test_other_directories_are_refused(tmp_path):
    RunDirectory(tmp_path)  # empty
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(QuEEError, match="holds other files"):
        RunDirectory(tmp_path)
    with pytest.raises(QuEEError, match="is a file"):
        RunDirectory(tmp_path / "notes.txt")


def test_not_finite_numbers_are_no_json(directory):
    write_json(directory.root / "a.json", {"b": 1.5})
    assert json.loads((directory.root / "a.json").read_text()) == {"b": 1.5}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(directory.root / "a.json", float("nan"))
