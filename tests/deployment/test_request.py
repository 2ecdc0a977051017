"""Tests of `read_request`: what it takes, and what it says of the rest."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from quee_hf import BadImageError
from quee_hf.deployment.request import read_request


@pytest.fixture(scope="module")
def image():
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def content(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def encoded(content):
    return base64.b64encode(content).decode()


def test_an_image_in_every_form(image, content, encoded):
    lines = "\n".join(encoded[start : start + 60] for start in range(0, len(encoded), 60))
    forms = [image, content, bytearray(content), encoded, lines, f"data:image/png;base64,{encoded}"]
    for form in forms:
        for name in ("inputs", "image"):
            request = read_request({name: form})
            assert np.array_equal(np.asarray(request.image), np.asarray(image))
            assert request[1:] == (None, None, 5, False)


def test_parameters_stand_together_or_beside_the_image(encoded):
    options = {"cost_lambda": 0.5, "top_k": 3, "return_routing": True}
    together = read_request({"inputs": encoded, "parameters": options})
    beside = read_request({"image": encoded, **options})
    split = read_request(
        {"image": encoded, "top_k": 3, "parameters": {"cost_lambda": 0.5, "return_routing": True}}
    )
    for request in (together, beside, split):
        assert request[1:] == (0.5, None, 3, True)
    assert read_request({"inputs": encoded, "target_cost": 0.25}).target_cost == 0.25
    assert read_request({"inputs": encoded, "cost_lambda": math.inf}).cost_lambda == math.inf


def test_null_is_as_good_as_nothing(encoded):
    names = ("cost_lambda", "target_cost", "top_k", "return_routing", "parameters")
    assert read_request({"inputs": encoded, **dict.fromkeys(names)})[1:] == (None, None, 5, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cost_lambda": -0.1}, "`cost_lambda` must be a number from 0 to inf, got -0.1"),
        ({"cost_lambda": 10**400}, "`cost_lambda` must be a number from 0 to inf, got 1000"),
        ({"cost_lambda": math.nan}, "`cost_lambda` must be a number from 0 to inf, got nan"),
        ({"cost_lambda": "0.1"}, "`cost_lambda` must be a number from 0 to inf, got '0.1'"),
        ({"cost_lambda": True}, "got True"),
        ({"cost_lambda": [0.1]}, r"got \[0.1\]"),
        ({"target_cost": 1.5}, "`target_cost` must be a number from 0 to 1, got 1.5"),
        ({"target_cost": 0.5, "cost_lambda": 0.1}, "`cost_lambda` or `target_cost`, not both"),
        ({"top_k": 0}, "`top_k` must be a whole number from 1 on, got 0"),
        ({"top_k": 1.5}, "`top_k` must be a whole number from 1 on, got 1.5"),
        ({"top_k": True}, "`top_k` must be a whole number"),
        ({"return_routing": 1}, "`return_routing` must be true or false, got 1"),
        ({"parameters": [1]}, "`parameters` must be an object, got list"),
        ({"lambda": 0.1}, r"A request has no field \['lambda'\]; its fields are \['inputs', 'cost_lambda'"),
        ({"parameters": {"inputs": "x"}}, r"each field once, got \['inputs'\] twice"),
        ({"image": "x"}, r"must have `inputs`, one image, in base64; got the fields \['image', 'inputs'\]"),
    ],
)
def test_what_is_wrong_is_said(encoded, fields, message):
    with pytest.raises(ValueError, match=message):
        read_request({"inputs": encoded, **fields})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "http://example.com/cat.png",
            "got an address, 'http://example.com/cat.png', and nothing is fetched",
        ),
        ("file:///etc/passwd", "got an address"),
        ("/etc/passwd", "`inputs` must be one image, in base64, got '/etc/passwd'|Cannot read image"),
        ("not base64!", "`inputs` must be one image, in base64, got 'not base64!'"),
        ("ü" * 100, r"got 'ü{39}\.\.\."),
        (None, "`inputs` must be one image, in base64, got nothing"),
        (["a"], "`inputs` must be one image, in base64, got list"),
        (5, "got int"),
    ],
)
def test_what_is_no_image_in_base64_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_request({"inputs": value})


@pytest.mark.parametrize("value", ["", b"", base64.b64encode(b"text").decode(), b"\x89PNG\r\n\x1a\n"])
def test_what_cannot_be_decoded_is_a_bad_image(value):
    with pytest.raises(BadImageError, match="Cannot read image of the request: "):
        read_request({"inputs": value})


def test_a_truncated_image_is_a_bad_image(content):
    with pytest.raises(BadImageError, match="of the request"):
        read_request({"inputs": content[: len(content) // 2]})


@pytest.mark.parametrize("data", [None, [], "text", 5])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(
        ValueError, match="A request must be an object with `inputs`, one image, in base64; got"
    ):
        read_request(data)
