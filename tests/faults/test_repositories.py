"""A repository runs no code of its own unless `trust_remote_code=True` is given."""

from tests.faults.repositories import WAYS, attacks


def test_nothing_of_a_repository_is_run(tmp_path):
    names = ("`from_pretrained`", "`AutoModelForImageClassification`", "`pipeline`")
    at_once = {"all": "\n".join(WAYS[name] for name in names)}  # in one process, which takes a while to start
    (attack,) = attacks(tmp_path, at_once)
    assert attack.run() == "loads, nothing of it ran"  # raises `Harm` if something did
