"""Tests of `quee_hf.demo.app` without a browser: what is served, to whom, and that requests do not mix."""

import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import gradio_client
import pytest
from tests.demo.server import served

from quee_hf.demo.classification import classify
from quee_hf.demo.settings import BUDGET, LAMBDA, PATH, Setting, choices_of
from quee_hf.images import load_rgb


@pytest.fixture(scope="module")
def url(classifier):
    with served(classifier) as url:
        yield url


@pytest.fixture
def client(url):
    return gradio_client.Client(url, verbose=False)


def ask(client, classifier, file, way=LAMBDA, cost_lambda=0.1, budget=1.0, path=None):
    """Return what the app shows: message, preview, scores, spent, route, gates, curve."""
    path = path or next(iter(choices_of(classifier.model).paths))
    handle = None if file is None else gradio_client.handle_file(str(file))
    return client.predict(handle, way, cost_lambda, budget, path, api_name="/classify")


def shown_scores(answer):
    return {row["label"]: row["confidence"] for row in answer[2]["confidences"]}


@pytest.mark.parametrize(
    ("asked", "setting"),
    [
        ({"cost_lambda": 0.3}, Setting(cost_lambda=0.3)),
        ({"way": BUDGET, "budget": 0.55}, Setting(target_cost=0.55)),
        ({"way": PATH}, Setting(path=(8, 8, 8))),
    ],
)
def test_answers_are_those_of_the_model(client, classifier, pictures, asked, setting):
    answer = ask(client, classifier, pictures[0], **asked)
    expected = classify(classifier, load_rgb(pictures[0]), setting)
    assert shown_scores(answer) == pytest.approx(expected.scores)
    assert f"{expected.spending.share:.1%}" in answer[3]


def test_requests_at_once_do_not_mix(url, classifier, pictures):
    """Two visitors, twelve requests each, of different images at different lambdas."""
    lambdas = [0.0, 0.05, 0.1, 0.2, 0.3, 0.5]
    plans = [
        list(zip(pictures, lambdas, strict=True)) * 2,
        list(zip(pictures[::-1], lambdas, strict=True)) * 2,
    ]

    def visit(plan):
        own = gradio_client.Client(url, download_files=False, verbose=False)
        return [ask(own, classifier, file, cost_lambda=value) for file, value in plan]

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(visit, plans))
    for plan, found in zip(plans, answers, strict=True):
        for (file, cost_lambda), answer in zip(plan, found, strict=True):
            expected = classify(classifier, load_rgb(file), Setting(cost_lambda=cost_lambda))
            assert shown_scores(answer) == pytest.approx(expected.scores)
            assert f"λ = {cost_lambda:.3g}" in answer[3]


def test_a_broken_file_is_a_message_and_no_error(client, classifier, broken):
    message, *rest, _ = ask(client, classifier, broken)
    assert "Cannot read image broken.jpg" in message
    assert not any(rest)


def test_files(client, classifier, pictures, broken):
    files = [gradio_client.handle_file(str(file)) for file in (*pictures, broken)]
    path = next(iter(choices_of(classifier.model).paths))
    message, summary, _, table = client.predict(files, [], LAMBDA, 0.1, 1.0, path, api_name="/classify_files")
    assert "1 of 7 files could not be read." in message
    assert summary.startswith("**6 images, mean cost ")
    assert [row[0] for row in table["data"]] == [file.name for file in pictures]


def test_it_listens_to_this_machine_only(url):
    parts = urlsplit(url)
    assert parts.hostname == "127.0.0.1"
    with socket.create_connection((parts.hostname, parts.port), timeout=10):
        pass
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1"}:
        if not address.startswith("127."):
            with (
                pytest.raises(ConnectionRefusedError),
                socket.create_connection((address, parts.port), timeout=10),
            ):
                pass
