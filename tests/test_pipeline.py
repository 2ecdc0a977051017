"""Tests of `quee_hf.pipeline`: all that the stock pipeline does still works, always with the same routes."""

import base64
import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from tests.profiles import CERTIFICATE
from tests.tiny import routable
from transformers import (
    ImageClassificationPipeline,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    pipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.pt_utils import KeyDataset

from quee_hf import BudgetController, DriftMonitor, QuEEForImageClassification, record_drift_reference
from quee_hf.certificates import fingerprint_of_model
from quee_hf.errors import BadImageError, IncompatibleCheckpointError, NotReadyError
from quee_hf.pipeline import QuEEImageClassificationPipeline
from quee_hf.registration import ImageClassificationDispatch, register_pipeline

TASK = "image-classification"
COST_LAMBDA = 0.05  # sends the tiny model's images three different ways
OPERATING_POINTS = [
    {"cost_lambda": 0.0, "cost": 1.0, "accuracy": 0.9, "num_images": 10},
    {"cost_lambda": COST_LAMBDA, "cost": 0.6, "accuracy": 0.8, "num_images": 10},
    {"cost_lambda": 3.0, "cost": 0.4, "accuracy": 0.7, "num_images": 10},
]
# Python 3.12 and later warn when PyTorch's loader forks its workers.
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def processor(**options) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 32, "width": 32}, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    routable(levels=[8, 4]).save_pretrained(folder)
    processor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classify(saved) -> QuEEImageClassificationPipeline:
    return pipeline(TASK, model=saved, device="cpu")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Eight images of as many sizes, none of them square."""
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)) for _ in range(8)]
    return [image.resize((30 + i, 41 - i)) for i, image in enumerate(coarse)]


@pytest.fixture(scope="module")
def expected(classify, pictures) -> list[dict]:
    """Each image classified alone."""
    return [classify(image, cost_lambda=COST_LAMBDA, return_routing=True) for image in pictures]


@pytest.fixture
def picture_file(pictures, tmp_path) -> str:
    pictures[0].save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def website(pictures, tmp_path, monkeypatch):
    """Address of a server on this machine that has `picture.png` and `page.html`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            pass

    pictures[0].save(tmp_path / "picture.png")
    (tmp_path / "page.html").write_text("<html>not an image</html>")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def assert_same(results, expected):
    """Routes are equal; scores may differ by float32 rounding in matrix products of another size."""
    results = list(results)
    assert len(results) == len(expected)
    for result, wanted in zip(results, expected, strict=True):
        route, wanted_route = (dict(each["routing"]) for each in (result, wanted))
        assert route.pop("error_probability") == pytest.approx(
            wanted_route.pop("error_probability"), abs=1e-5
        )
        assert route == wanted_route
        assert [score["label"] for score in result["scores"]] == [s["label"] for s in wanted["scores"]]
        assert [score["score"] for score in result["scores"]] == pytest.approx(
            [score["score"] for score in wanted["scores"]], abs=1e-5
        )


class ListedPictures(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class TestClassOfThePipeline:
    def test_saved_model_gets_ours(self, classify):
        assert type(classify) is QuEEImageClassificationPipeline

    def test_loaded_model_gets_ours(self, saved, pictures, expected):
        model = QuEEForImageClassification.from_pretrained(saved)
        classify = pipeline(TASK, model=model, image_processor=processor(), device="cpu")
        assert type(classify) is QuEEImageClassificationPipeline
        assert_same(classify(pictures, cost_lambda=COST_LAMBDA, return_routing=True), expected)

    def test_stock_model_gets_stock_class(self, tmp_path, pictures):
        vit = ViTForImageClassification(
            ViTConfig(
                hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32
            )
        )
        classify = pipeline(TASK, model=vit, image_processor=processor(), device="cpu")
        assert type(classify) is ImageClassificationPipeline
        classify.save_pretrained(tmp_path)
        assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
        assert type(pipeline(TASK, model=str(tmp_path), device="cpu")) is ImageClassificationPipeline
        with pytest.raises(TypeError, match="cost_lambda"):
            classify(pictures[0], cost_lambda=COST_LAMBDA)

    def test_saving_writes_no_custom_pipelines(self, classify, tmp_path, pictures, expected):
        classify.save_pretrained(tmp_path)
        assert "custom_pipelines" not in json.loads((tmp_path / "config.json").read_text())
        again = pipeline(TASK, model=str(tmp_path), device="cpu")
        assert_same(again(pictures, cost_lambda=COST_LAMBDA, return_routing=True), expected)

    def test_pickling_changes_nothing(self, classify, pictures, expected):
        again = pickle.loads(pickle.dumps(classify))
        assert_same(again(pictures, cost_lambda=COST_LAMBDA, return_routing=True), expected)


class TestRegistration:
    @pytest.fixture
    def entry(self, monkeypatch):
        entry = PIPELINE_REGISTRY.supported_tasks[TASK]
        monkeypatch.setitem(entry, "impl", entry["impl"])
        return entry

    def test_import_has_registered(self, entry):
        assert entry["impl"] == "quee_hf.registration.ImageClassificationDispatch"

    @pytest.mark.parametrize(
        "before",
        [
            "transformers.pipelines.image_classification.ImageClassificationPipeline",
            ImageClassificationPipeline,
            ImageClassificationDispatch,
        ],
        ids=["stock-name", "stock-class", "ours"],
    )
    def test_takes_over_from_stock_once(self, entry, before):
        entry["impl"] = before
        assert register_pipeline()
        once = dict(entry)
        assert register_pipeline()
        assert entry == once
        assert entry["impl"] == "quee_hf.registration.ImageClassificationDispatch"

    def test_leaves_another_owner_alone_and_warns_once(self, entry):
        class Theirs(ImageClassificationPipeline):
            pass

        entry["impl"] = Theirs
        with pytest.warns(UserWarning, match=r"already belongs to .*Theirs.*pipeline_class"):
            assert not register_pipeline()
        assert not register_pipeline()  # warnings are errors in tests
        assert entry["impl"] is Theirs

    def test_pipeline_class_works_beside_another_owner(self, entry, saved, pictures):
        entry["impl"] = ImageClassificationPipeline
        classify = pipeline(TASK, model=saved, pipeline_class=QuEEImageClassificationPipeline, device="cpu")
        assert classify(pictures[0], path=[8], return_routing=True)["routing"]["path"] == [8]


class TestDamagedModels:
    """`transformers` turns into errors of its own whatever goes wrong while weights are loaded."""

    @pytest.fixture
    def damaged(self, saved, tmp_path):
        return Path(shutil.copytree(saved, tmp_path / "model"))

    def test_errors_of_weights_are_in_the_message(self, damaged):
        content = bytearray((damaged / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (damaged / "model.safetensors").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"Could not load(.|\n)*IncompatibleCheckpointError: .*is damaged"
        ):
            pipeline(TASK, model=str(damaged), device="cpu")

    def test_errors_of_configs_come_as_they_are(self, damaged):
        config = json.loads((damaged / "config.json").read_text())
        (damaged / "config.json").write_text(json.dumps(config | {"levels": [8, 9]}))
        with pytest.raises(IncompatibleCheckpointError, match="got 9"):
            pipeline(TASK, model=str(damaged), device="cpu")


class TestOutput:
    def test_equals_stock_pipeline(self, classify, pictures):
        stock = ImageClassificationPipeline(model=classify.model, image_processor=processor(), device="cpu")
        assert classify(pictures, top_k=3) == stock(pictures, top_k=3)

    def test_routes_differ_so_that_tests_mean_something(self, expected):
        assert len({str(result["routing"]["path"]) for result in expected}) == 3

    def test_routing_equals_model_output(self, classify, pictures, expected):
        config = classify.model.config
        for image, result in zip(pictures, expected, strict=True):
            with torch.inference_mode():
                out = classify.model(**processor()(image, return_tensors="pt"), cost_lambda=COST_LAMBDA)
            indices = [index for index in out.path[0].tolist() if index >= 0]
            assert result["routing"] == {
                "exit_block": config.exit_blocks[len(indices) - 1],
                "exit_index": out.exit_index.item(),
                "path": [config.levels[index] for index in indices],
                "cost": out.cost.item(),
                "error_probability": out.error_probability.item(),
            }

    def test_routing_is_json(self, classify, pictures):
        for options in ({}, {"path": [8, 4]}, {"cost_lambda": COST_LAMBDA}):
            json.dumps(classify(pictures[0], return_routing=True, **options), allow_nan=False)

    def test_forced_path_has_no_error_probability(self, classify, pictures):
        assert classify(pictures[0], path=[8, 4], return_routing=True)["routing"] == {
            "exit_block": 2,
            "exit_index": 1,
            "path": [8, 4],
            "cost": 0.375,  # blocks 1 and 2 of 4, the second at half the bits: (1 + 0.5) / 4
            "error_probability": None,
        }

    def test_top_k(self, classify, pictures):
        every = classify(pictures[0], top_k=99)
        assert len(every) == classify.model.config.num_labels
        assert classify(pictures[0], top_k=2) == every[:2]
        assert sum(score["score"] for score in every) == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize(("name", "function"), [("none", lambda x: x), ("sigmoid", torch.sigmoid)])
    def test_function_to_apply(self, classify, pictures, name, function):
        with torch.inference_mode():
            logits = classify.model(**processor()(pictures[0], return_tensors="pt")).logits[0]
        wanted = sorted(function(logits).tolist(), reverse=True)
        scores = [score["score"] for score in classify(pictures[0], function_to_apply=name)]
        assert scores == pytest.approx(wanted, abs=1e-6)


class TestInputs:
    """However images come, each is routed as when it is alone."""

    @pytest.mark.parametrize("batch_size", [1, 3, 8])
    @pytest.mark.parametrize("kind", ["list", "generator", "torch", "datasets"])
    def test_kind_and_batch_size(self, classify, pictures, expected, kind, batch_size):
        inputs = {
            "list": lambda: pictures,
            "generator": lambda: (image for image in pictures),
            "torch": lambda: ListedPictures(pictures),
            "datasets": lambda: KeyDataset(
                datasets.Dataset.from_dict(
                    {"image": pictures}, features=datasets.Features({"image": datasets.Image()})
                ),
                "image",
            ),
        }[kind]()
        results = classify(inputs, cost_lambda=COST_LAMBDA, return_routing=True, batch_size=batch_size)
        assert_same(results, expected)

    @FORKS
    def test_workers(self, classify, pictures, expected):
        options = {"cost_lambda": COST_LAMBDA, "return_routing": True, "batch_size": 3}
        assert_same(classify(pictures, num_workers=2, **options), expected)

    @FORKS
    @pytest.mark.slow  # after an error in a worker, PyTorch's loader waits 5 seconds for each to end
    def test_broken_file_in_a_worker(self, classify, pictures, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"no")
        with pytest.raises(BadImageError, match=r"broken\.png"):
            classify([*pictures, tmp_path / "broken.png"], num_workers=2)

    def test_batch_size_given_when_made(self, saved, pictures, expected):
        classify = pipeline(
            TASK, model=saved, batch_size=3, cost_lambda=COST_LAMBDA, return_routing=True, device="cpu"
        )
        assert_same(classify(pictures), expected)

    def test_batches_of_a_data_set_run_as_one_stream(self, saved, pictures, expected, monkeypatch):
        """Late segments see images of several batches at once; a batch of one image needs none of it."""
        classify = pipeline(TASK, model=saved, device="cpu", cost_lambda=COST_LAMBDA, return_routing=True)
        sizes = {}
        run_segment = classify.model.run_segment

        def spy(segment, level, hidden):
            sizes.setdefault(segment, []).append(len(hidden))
            return run_segment(segment, level, hidden)

        monkeypatch.setattr(classify.model, "run_segment", spy)
        assert_same(classify(ListedPictures(pictures * 8), batch_size=4), expected * 8)
        for segment, runs in sizes.items():
            assert runs.count(4) >= len(runs) - 2, segment  # but for the last at each level
        assert set(sizes) == {0, 1}
        sizes.clear()
        assert_same(classify(ListedPictures(pictures), batch_size=1), expected)
        assert {size for runs in sizes.values() for size in runs} == {1}

    def test_a_generator_is_read_as_results_are_asked_for(self, classify, pictures, expected):
        read = []

        def images():
            for number in range(400):
                read.append(number)
                yield pictures[number % 8]

        results = iter(classify(images(), cost_lambda=COST_LAMBDA, return_routing=True, batch_size=4))
        assert len(read) == 1  # by transformers, to see whether it is a chat
        assert_same([next(results) for _ in range(8)], expected)
        assert len(read) < 100
        del results

    @pytest.mark.parametrize("options", [{"path": [8, 4]}, {}], ids=["path", "whole-network"])
    @pytest.mark.parametrize("batch_size", [3, 8])
    def test_without_lambda_too(self, classify, pictures, options, batch_size):
        wanted = [classify(image, return_routing=True, **options) for image in pictures]
        found = classify(pictures, return_routing=True, batch_size=batch_size, **options)
        assert [each["routing"] for each in found] == [each["routing"] for each in wanted]
        for each, other in zip(found, wanted, strict=True):
            assert [score["score"] for score in each["scores"]] == pytest.approx(
                [score["score"] for score in other["scores"]], abs=1e-5
            )

    def test_a_data_set_may_be_iterated_again(self, classify, pictures, expected):
        results = classify(
            ListedPictures(pictures), cost_lambda=COST_LAMBDA, return_routing=True, batch_size=3
        )
        assert len(results) == 3  # batches, as in the stock pipeline
        assert_same(results, expected)
        assert_same(results, expected)

    @pytest.mark.parametrize("batch_size", [1, 3])
    @pytest.mark.parametrize("is_generator", [True, False], ids=["generator", "data-set"])
    def test_no_images_give_no_results(self, classify, is_generator, batch_size):
        inputs = (image for image in []) if is_generator else ListedPictures([])
        assert list(classify(inputs, cost_lambda=COST_LAMBDA, batch_size=batch_size)) == []

    def test_top_k_and_lists_in_batches(self, classify, pictures):
        found = classify(pictures, cost_lambda=COST_LAMBDA, top_k=2, batch_size=3)
        assert [[score["label"] for score in each] for each in found] == [
            [score["label"] for score in classify(image, cost_lambda=COST_LAMBDA, top_k=2)]
            for image in pictures
        ]

    def test_path_url_and_base64(self, classify, picture_file, website, expected):
        content = base64.b64encode(Path(picture_file).read_bytes()).decode()
        sources = [
            picture_file,
            Path(picture_file),
            f"{website}/picture.png",
            content,
            f"data:image/png;base64,{content}",
        ]
        for source in sources:
            result = classify(source, cost_lambda=COST_LAMBDA, return_routing=True, timeout=60)
            assert_same([result], expected[:1])

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
    def test_modes_equal_their_rgb(self, classify, pictures, mode):
        image = pictures[0].convert(mode)
        assert classify(image) == classify(image.convert("RGB"))

    @pytest.mark.parametrize("mode", ["I;16", "I", "F"])
    def test_more_bits_are_scaled_where_stock_clips(self, classify, pictures, mode, tmp_path):
        grey = pictures[0].convert("L")
        deep = np.asarray(grey).astype(np.uint16) * 257  # 255 becomes 65535
        image = (
            Image.fromarray(deep) if mode == "I;16" else Image.fromarray(deep.astype(np.int32)).convert(mode)
        )
        assert image.mode == mode
        assert classify(image) == classify(grey)
        if mode == "I;16":
            image.save(tmp_path / "deep.png")
            assert classify(str(tmp_path / "deep.png")) == classify(grey)

    @pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 3), (3, 3), (3, 50), (200, 1)])
    def test_tiny_images_keep_their_colour(self, classify, size):
        orange = (250, 120, 10)
        assert classify(Image.new("RGB", size, orange)) == classify(Image.new("RGB", (32, 32), orange))

    def test_arrays_go_to_the_image_processor(self, classify, pictures):
        assert classify(np.asarray(pictures[0])) == classify(pictures[0])

    def test_argument_is_not_changed(self, classify):
        image = Image.new("P", (5, 6))
        classify(image)
        assert image.mode == "P"


class TestBadImages:
    def test_file(self, classify, picture_file, tmp_path):
        truncated = tmp_path / "truncated.png"
        truncated.write_bytes(Path(picture_file).read_bytes()[:-40])
        with pytest.raises(BadImageError, match=r"truncated\.png"):
            classify([picture_file, str(truncated)])

    def test_file_in_a_generator_comes_after_results_of_those_before_it(self, classify, pictures, expected):
        sources = (image for image in [*pictures, "missing.png", *pictures])
        found = []
        with pytest.raises(BadImageError, match=r"missing\.png"):
            found.extend(classify(sources, cost_lambda=COST_LAMBDA, return_routing=True, batch_size=4))
        assert_same(found, expected)

    @pytest.mark.parametrize(
        "source", ["missing.png", "missing", "b64+", "data:image/png;base64,AAAA", "", "é"]
    )
    def test_no_file(self, classify, source, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BadImageError, match="no such file, and no image in base64") as caught:
            classify(source)
        assert f"Cannot read image {source}:" in str(caught.value)

    def test_folder(self, classify, tmp_path):
        with pytest.raises(BadImageError, match=str(tmp_path)):
            classify(str(tmp_path))

    def test_message_does_not_hold_a_whole_image(self, classify):
        with pytest.raises(BadImageError) as caught:
            classify("A" * 100_000)
        assert len(str(caught.value)) < 200

    def test_urls(self, classify, website):
        with pytest.raises(BadImageError, match=f"{website}/missing.png: the server answered 404"):
            classify(f"{website}/missing.png")
        with pytest.raises(BadImageError, match=f"{website}/page.html: it is not an image"):
            classify(f"{website}/page.html")
        with pytest.raises(BadImageError, match=r"http://127\.0\.0\.1:1/nobody\.png"):
            classify("http://127.0.0.1:1/nobody.png")
        with pytest.raises(BadImageError, match="http://"):
            classify("http://")

    def test_other_types_are_refused_as_by_stock(self, classify):
        with pytest.raises(TypeError, match="Incorrect format used for image"):
            classify(3.5)


class TestRoutingArguments:
    @pytest.mark.parametrize(
        "pair",
        [
            {"cost_lambda": 0.1, "target_cost": 0.5},
            {"cost_lambda": 0.1, "path": [8]},
            {"target_cost": 0.5, "path": [8]},
            {"target_cost": 0.5, "target_latency_ms": 3.0},
        ],
        ids=lambda pair: "+".join(pair),
    )
    def test_exclude_each_other(self, classify, saved, pair):
        match = "at most one of " + ", ".join(f"`{name}`" for name in pair)
        with pytest.raises(ValueError, match=match):
            classify("not read", **pair)
        with pytest.raises(ValueError, match=match):
            pipeline(TASK, model=saved, device="cpu", **pair)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("cost_lambda", value) for value in (-0.1, float("nan"), float("-inf"), np.float32("nan"))],
            *[("target_cost", value) for value in (-0.1, 1.5, float("nan"))],
            *[("target_latency_ms", value) for value in (-1, float("nan"))],
            *[("path", value) for value in ([], [8, 8, 8, 8], [6], ["8"], "8", 8, [8, None])],
        ],
    )
    def test_senseless_values_are_refused_before_work(self, classify, name, value):
        with pytest.raises(ValueError, match=f"`{name}`"):
            classify("not read", **{name: value})
        with pytest.raises(ValueError, match=f"`{name}`"):
            pipeline(TASK, model=classify.model, image_processor=processor(), device="cpu", **{name: value})

    @pytest.mark.parametrize("name", ["cost_lambda", "target_cost", "target_latency_ms"])
    @pytest.mark.parametrize("value", ["0.3", True, [0.1, 0.2], torch.tensor([0.1, 0.2])], ids=type)
    def test_other_types_are_refused(self, classify, name, value):
        with pytest.raises(TypeError, match=f"`{name}` must be a number, got {type(value).__name__}"):
            classify("not read", **{name: value})

    def test_unknown_names_are_refused(self, classify):
        with pytest.raises(TypeError, match="cost_lamda"):
            classify("not read", cost_lamda=0.3)

    @pytest.mark.parametrize("value", [0, 0.3, np.float32(0.3), float("inf")], ids=repr)
    def test_lambda_may_be_any_real_number(self, classify, pictures, value):
        routing = classify(pictures[0], cost_lambda=value, return_routing=True)["routing"]
        if value == float("inf"):
            assert routing["path"] == [8]  # the cheapest there is

    def test_call_replaces_what_the_pipeline_was_made_with(self, classify, pictures, expected):
        forced = pipeline(
            TASK,
            model=classify.model,
            image_processor=processor(),
            path=(8, 4),
            return_routing=True,
            device="cpu",
        )
        assert {str(result["routing"]["path"]) for result in forced(pictures)} == {"[8, 4]"}
        assert_same(forced(pictures, cost_lambda=COST_LAMBDA), expected)
        assert forced(pictures[0], path=[8, 8, 4])["routing"]["path"] == [8, 8, 4]
        assert isinstance(forced(pictures[0], return_routing=False), list)
        assert forced(pictures[0])["routing"]["path"] == [8, 4]

    def test_target_cost_takes_an_operating_point(self, saved, pictures, expected):
        classify = pipeline(
            TASK,
            model=saved,
            model_kwargs={"operating_points": OPERATING_POINTS},
            return_routing=True,
            device="cpu",
        )
        assert_same(classify(pictures, target_cost=0.99), expected)
        with pytest.raises(ValueError, match="below the cheapest operating point"):
            classify("not read", target_cost=0.1)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_a_budget_finds_lambda(self, classify, pictures, batch_size):
        budgeted = BudgetController.for_model(classify.model, target_cost=0.8)
        options = {"cost_lambda": budgeted, "batch_size": batch_size, "return_routing": True}
        results = list(classify((picture for picture in pictures * 6), **options))
        costs = [result["routing"]["cost"] for result in results]
        report = budgeted.report()
        assert report["num_images"] == len(costs) == 6 * len(pictures)
        assert report["mean"] == pytest.approx(np.mean(costs))
        with pytest.raises(TypeError, match="`target_cost` must be a number"):
            classify("not read", target_cost=budgeted)

    @pytest.mark.parametrize("batch_size", [1, 4])
    def test_a_monitor_sees_all_images(self, saved, pictures, batch_size):
        model = QuEEForImageClassification.from_pretrained(saved)
        prepared = processor()(images=pictures, return_tensors="pt")["pixel_values"]
        record_drift_reference(model, [{"pixel_values": each, "labels": 0} for each in prepared])
        monitor = DriftMonitor(model, window=len(pictures), shadow_share=1.0)
        classify = pipeline(TASK, model=model, image_processor=processor(), device="cpu", return_routing=True)
        options = {"cost_lambda": COST_LAMBDA, "batch_size": batch_size}
        watched = classify(pictures, monitor=monitor, **options)
        assert_same(watched, classify(pictures, **options))
        report = monitor.report()
        assert (report["num_images"], report["is_drifted"]) == (len(pictures), False)
        assert report["agreement"]["num_images"] == len(pictures)
        with pytest.raises(ValueError, match="The monitor is of another model"):
            pipeline(TASK, model=saved, device="cpu", monitor=monitor)

    def test_an_engine_runs_the_model(self, saved, pictures):
        classify = pipeline(TASK, model=saved, device="cpu", engine="onnxruntime", return_routing=True)
        assert classify.model.engine == "onnxruntime"
        near = classify(pictures, path=[8])
        classify.model.set_engine("torch")
        for found, exact in zip(near, classify(pictures, path=[8]), strict=True):
            assert found["routing"] == exact["routing"]
            assert found["scores"][0]["score"] == pytest.approx(exact["scores"][0]["score"], abs=0.02)
        with pytest.raises(ValueError, match="`engine` must be one of"):
            pipeline(TASK, model=saved, device="cpu", engine="cuda")

    def test_a_call_that_is_refused_leaves_the_engine(self, saved):
        classify = pipeline(TASK, model=saved, device="cpu")
        with pytest.raises(ValueError, match="`path` must be"):
            classify("not read", engine="onnxruntime", path=["no level"])
        assert classify.model.engine == "torch"

    def test_max_accuracy_drop_takes_a_certified_lambda(self, saved, pictures, expected):
        model = QuEEForImageClassification.from_pretrained(saved)
        told = {"cost_model": model.config.cost_model, "engine": "torch"}
        certificate = {
            **CERTIFICATE,
            **told,
            "cost_lambda": COST_LAMBDA,
            "model": fingerprint_of_model(model),
        }
        model.config.certificates = [certificate]
        classify = pipeline(TASK, model=model, image_processor=processor(), return_routing=True, device="cpu")
        assert_same(classify(pictures, max_accuracy_drop=0.02), expected)
        with pytest.raises(ValueError, match="No certificate covers"):
            classify("not read", max_accuracy_drop=0.005)
        with pytest.raises(ValueError, match="at most one of"):
            classify("not read", max_accuracy_drop=0.02, cost_lambda=0.1)

    def test_a_certified_default_is_looked_up_again_where_something_changed(self, saved, pictures):
        model = QuEEForImageClassification.from_pretrained(saved)
        told = {
            "cost_model": model.config.cost_model,
            "engine": "torch",
            "model": fingerprint_of_model(model),
        }
        model.config.certificates = [{**CERTIFICATE, **told}]
        classify = pipeline(
            TASK, model=model, image_processor=processor(), max_accuracy_drop=0.02, device="cpu"
        )
        classify(pictures[0])
        with pytest.warns(UserWarning, match="made with the engine 'torch'"):
            classify(pictures[0], engine="onnxruntime")
        classify(pictures[0])  # said once
        classify.image_processor = processor(do_rescale=False)
        with pytest.warns(UserWarning, match="made with the engine 'torch'"):
            classify(pictures[0])
        classify(pictures[0])
        classify.image_processor.do_rescale = True  # in place
        with pytest.warns(UserWarning, match="made with the engine 'torch'"):
            classify(pictures[0])
        model.config.certificates = None  # as after training
        with pytest.raises(ValueError, match="No certificate covers"):
            classify(pictures[0])
        classify(pictures[0], cost_lambda=0.1)

    @pytest.mark.parametrize("shape", [(0, 0, 3), (0, 5, 3), (3, 0, 0)])
    def test_images_without_pixels_are_refused(self, classify, shape):
        with pytest.raises(BadImageError, match="has no pixels"):
            classify(np.zeros(shape, np.uint8))

    def test_target_latency_takes_an_operating_point(self, saved, pictures, expected):
        timed = [{**point, "latency_ms": 10 * point["cost"]} for point in OPERATING_POINTS]
        classify = pipeline(
            TASK, model=saved, model_kwargs={"operating_points": timed}, return_routing=True, device="cpu"
        )
        assert_same(classify(pictures, target_latency_ms=9.9), expected)
        with pytest.raises(ValueError, match=r"`target_latency_ms` 1.0 is below the cheapest .* ms"):
            classify("not read", target_latency_ms=1)

    def test_target_latency_needs_times(self, classify):
        with pytest.raises(ValueError, match="run `quee profile"):
            classify("not read", target_latency_ms=5)

    def test_target_cost_needs_operating_points(self, classify):
        with pytest.raises(ValueError, match="fit_operating_points"):
            classify("not read", target_cost=0.5)

    def test_config_sets_the_default(self, saved, pictures, expected):
        classify = pipeline(TASK, model=saved, model_kwargs={"cost_lambda": COST_LAMBDA}, device="cpu")
        assert_same(classify(pictures, return_routing=True), expected)
        assert classify(pictures[0], path=[8, 4], return_routing=True)["routing"]["path"] == [8, 4]
        model = QuEEForImageClassification.from_pretrained(saved, cost_lambda=COST_LAMBDA)
        classify = pipeline(TASK, model=model, image_processor=processor(), device="cpu")
        assert_same(classify(pictures, return_routing=True), expected)

    def test_untrained_gates_run_the_whole_network_only(self, saved, pictures):
        classify = pipeline(TASK, model=saved, model_kwargs={"trained_parts": ["heads"]}, device="cpu")
        routing = classify(pictures[0], return_routing=True)["routing"]
        assert (routing["path"], routing["cost"]) == ([8, 8, 8], 1.0)
        for inputs in (pictures[0], pictures):
            with pytest.raises(NotReadyError, match="gates are not trained"):
                classify(inputs, cost_lambda=COST_LAMBDA, batch_size=4)


class TestModel:
    def test_bfloat16(self, saved, pictures):
        classify = pipeline(TASK, model=saved, dtype=torch.bfloat16, device="cpu")
        assert classify.dtype == torch.bfloat16
        results = classify(pictures, cost_lambda=COST_LAMBDA, return_routing=True, batch_size=3)
        assert all(sum(s["score"] for s in r["scores"]) == pytest.approx(1, abs=1e-6) for r in results)
        assert all(r["routing"]["path"][0] == 8 for r in results)

    def test_training_mode_is_left(self, saved, pictures, expected):
        model = QuEEForImageClassification.from_pretrained(saved)
        classify = pipeline(TASK, model=model.train(), image_processor=processor(), device="cpu")
        assert_same(classify(pictures, cost_lambda=COST_LAMBDA, return_routing=True), expected)
        model.train()
        assert_same(classify(pictures, cost_lambda=COST_LAMBDA, return_routing=True, batch_size=3), expected)

    def test_torchvision_processor_is_converted(self, classify):
        class ViTImageProcessor(ViTImageProcessorPil):
            @property
            def backend(self):
                return "torchvision"

        given = ViTImageProcessor(size={"height": 24, "width": 16}, image_mean=[0.1, 0.2, 0.3])
        made = pipeline(TASK, model=classify.model, image_processor=given, device="cpu").image_processor
        assert type(made) is ViTImageProcessorPil
        assert (made.size["height"], made.size["width"], list(made.image_mean)) == (24, 16, [0.1, 0.2, 0.3])
