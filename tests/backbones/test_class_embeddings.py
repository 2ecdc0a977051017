"""Tests of class embeddings: files of them, names of classes, and which embeddings classes get."""

import pytest
import torch
from safetensors import safe_open
from tests.tiny import class_embeddings

from quee_hf.backbones.class_embeddings import (
    check_class_names,
    choose_class_embeddings,
    read_class_embeddings,
    write_class_embeddings,
)


class TestFiles:
    @pytest.mark.parametrize("scale", [None, 3.5])
    def test_what_is_written_is_read(self, scale, tmp_path):
        embeddings = torch.nn.functional.normalize(class_embeddings(), dim=-1)
        write_class_embeddings(tmp_path / "e.safetensors", embeddings, scale)
        found, found_scale = read_class_embeddings(tmp_path / "e.safetensors", 16)
        torch.testing.assert_close(found, embeddings)  # made of length 1 once more
        assert found_scale == scale
        assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]

    def test_writing_replaces(self, tmp_path):
        for count in (5, 3):
            write_class_embeddings(
                tmp_path / "e.safetensors", class_embeddings(count).double().T.contiguous().T
            )
        with safe_open(tmp_path / "e.safetensors", framework="pt") as file:
            assert file.get_slice("class_embeddings").get_shape() == [3, 16]
            assert file.get_slice("class_embeddings").get_dtype() == "F32"

    def test_another_kind_of_file_is_named(self, tmp_path):
        (tmp_path / "e.safetensors").write_text("{}")
        with pytest.raises(ValueError, match=r"e\.safetensors is not a safetensors file"):
            read_class_embeddings(tmp_path / "e.safetensors", 16)


class TestNames:
    def test_are_returned_as_a_list(self):
        assert check_class_names(("cat", "dog")) == ["cat", "dog"]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("cat", "must be a list of texts, got 'cat'"),
            (["cat", 3], "must be a list of texts"),
            (["cat", ""], "must be a list of texts"),
            (["cat", "dog", "cat"], r"must differ from each other; \['cat'\] come more than once"),
            (["cat"], r"at least two classes to choose from, got \['cat'\]"),
            ([], "at least two classes"),
        ],
    )
    def test_wrong_ones(self, names, message):
        with pytest.raises(ValueError, match=message):
            check_class_names(names)


class TestChoice:
    present = torch.nn.functional.normalize(class_embeddings(), dim=-1).double()
    names = ("a", "b", "c", "d", "d")

    def test_present_ones_by_name(self):
        found = choose_class_embeddings(["c", "a"], None, self.names, self.present)
        assert torch.equal(found, self.present[[2, 0]])

    @pytest.mark.parametrize("name", ["e", "d"])
    def test_no_name_or_two_of_it(self, name):
        with pytest.raises(ValueError, match=rf"no classes \['{name}'\], or several of that name: give"):
            choose_class_embeddings(["a", name], None, self.names, self.present)

    def test_given_ones_become_like_the_present(self):
        found = choose_class_embeddings(["x", "y"], 5 * class_embeddings(2), self.names, self.present)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2).double(), atol=2**-22, rtol=0)

    def test_as_many_as_names(self):
        with pytest.raises(ValueError, match="There are 2 names, but 3 `class_embeddings`"):
            choose_class_embeddings(["x", "y"], class_embeddings(3), self.names, self.present)
