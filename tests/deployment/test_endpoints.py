"""Tests of both handlers for Inference Endpoints, called and behind HTTP."""

import base64
import importlib.util
import io

import numpy as np
import pytest
from benchmarks._serving import ask, ask_at_once, serving
from PIL import Image
from tests.deployment.deployed import export, modules_of, processor
from tests.tiny import routable
from transformers import pipeline

from quee_hf.deployment.endpoint import EndpointHandler
from quee_hf.deployment.files import write_handler
from quee_hf.hub.publish import published_files

LAMBDAS = [0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.4, 10.0]


@pytest.fixture(scope="module")
def model():
    made = routable(levels=["fp32", 8]).eval()
    made.config.operating_points = [
        {"cost_lambda": 0.1, "cost": 0.5, "accuracy": 0.8, "cost_model": "bitops"}
    ]
    return made


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    write_handler(folder, overwrite=False)
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    found = []
    for number in range(8):
        noise = random.normal(128, 20 * number, (20 + number, 30, 3))
        file = io.BytesIO()
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


@pytest.fixture(scope="module", params=["saved", "exported"])
def handler(request):
    folder = request.getfixturevalue(request.param)
    if request.param == "exported":
        with modules_of(folder) as modules:
            yield modules["handler"].EndpointHandler(str(folder))
        return
    spec = importlib.util.spec_from_file_location("model_handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.EndpointHandler is EndpointHandler
    yield module.EndpointHandler(str(folder))


def encoded(picture):
    return base64.b64encode(picture).decode()


def same(found, expected):
    assert [one["label"] for one in found["scores"]] == [one["label"] for one in expected["scores"]]
    scores = [[one["score"] for one in each["scores"]] for each in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert found["routing"] == {
        **expected["routing"],
        "error_probability": pytest.approx(expected["routing"]["error_probability"], abs=1e-3),
    }


def test_answers_are_the_pipelines(handler, saved, pictures):
    classify = pipeline("image-classification", model=str(saved), device="cpu")
    paths = set()
    for picture in pictures:
        for cost_lambda in (0.0, 0.1, 10.0):
            asked = {"cost_lambda": cost_lambda, "top_k": 2, "return_routing": True}
            found = handler({"inputs": encoded(picture), "parameters": asked})
            if set(found["routing"]["path"]) == {"fp32"}:  # elsewhere kernels differ in the last digits
                same(found, classify(Image.open(io.BytesIO(picture)), **asked))
            paths.add(tuple(found["routing"]["path"]))
    assert len(paths) >= 2


def test_options_have_their_meaning(handler, pictures):
    plain = handler({"inputs": pictures[0]})
    assert [set(each) for each in plain] == [{"label", "score"}] * 5
    assert handler({"inputs": pictures[0], "top_k": 1}) == plain[:1]
    at_cost = handler({"inputs": pictures[0], "target_cost": 0.6, "return_routing": True})
    assert at_cost == handler({"inputs": pictures[0], "cost_lambda": 0.1, "return_routing": True})
    with pytest.raises(ValueError, match="0.1 is below the cheapest operating point"):
        handler({"inputs": pictures[0], "target_cost": 0.1})


def test_requests_at_once_are_answered_as_if_alone(handler, pictures):
    requests = [
        {
            "inputs": encoded(pictures[number % len(pictures)]),
            "parameters": {
                "cost_lambda": LAMBDAS[number % 7],
                "return_routing": True,
                "top_k": 1 + number % 3,
            },
        }
        for number in range(112)
    ]
    expected = [(200, handler(request)) for request in requests]
    with serving(handler) as url:
        assert ask_at_once(url, requests, num_clients=16) == expected
    routes = {tuple(answer["routing"]["path"]) for _, answer in expected}
    assert len(routes) >= 2


def test_over_http(handler, pictures):
    with serving(handler) as url:
        assert ask(url, pictures[0], kind="image/png") == (200, handler({"inputs": pictures[0]}))
        code, answer = ask(url, {"inputs": "http://example.com/cat.png"})
        assert (code, "nothing is fetched" in answer["error"]) == (400, True)
        code, answer = ask(url, {"inputs": encoded(pictures[0][:50])})
        assert (code, "Cannot read image of the request" in answer["error"]) == (400, True)
        assert ask(url, {"inputs": encoded(pictures[0]), "cost_lambda": -1})[0] == 400
        assert ask(url, {"inputs": encoded(pictures[0])})[0] == 200  # it lives on


def test_the_engine_is_chosen_by_the_environment(saved, pictures, monkeypatch):
    monkeypatch.setenv("QUEE_ENGINE", "onnxruntime")
    handler = EndpointHandler(str(saved))
    assert handler._classify.model.engine == "onnxruntime"
    assert len(handler({"inputs": pictures[0]})) == 5


class TestWriteHandler:
    def test_says_what_to_install(self, saved):
        assert (saved / "requirements.txt").read_text() == "quee-hf\n"

    def test_is_pushed_with_the_model(self, saved):
        names = {path.name for path in published_files(saved)}
        assert {"handler.py", "requirements.txt", "config.json", "model.safetensors"} <= names

    def test_again_changes_nothing(self, saved):
        before = (saved / "handler.py").read_bytes()
        write_handler(saved, overwrite=False)
        assert (saved / "handler.py").read_bytes() == before

    def test_a_handler_of_somebody_elses_stays(self, tmp_path):
        (tmp_path / "config.json").touch()
        (tmp_path / "requirements.txt").write_text("mine")
        with pytest.raises(ValueError, match=r"requirements.txt exists and is another"):
            write_handler(tmp_path, overwrite=False)
        assert not (tmp_path / "handler.py").exists()
        write_handler(tmp_path, overwrite=True)
        assert (tmp_path / "requirements.txt").read_text() == "quee-hf\n"

    def test_only_beside_a_model(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no config.json"):
            write_handler(tmp_path, overwrite=False)
