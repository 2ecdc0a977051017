"""A repository runs no code of its own unless `trust_remote_code=True` is given."""

from tests.faults.repositories import WAYS, attacks


def test_nothing_of_a_repository_is_run(tmp_path):
    names = ("`from_pretrained`", "`AutoModelForImageClassification`", "`pipeline`")
    at_once = {"all": "\n".join(WAYS[name] for name in names)}  # in one process, which takes a while to start
    # The Hub is there while attacks are; what runs raises `Harm`.
    assert [attack.run() for attack in attacks(tmp_path, at_once)] == ["loads, nothing of it ran"]
