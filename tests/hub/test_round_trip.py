"""Tests of pushing to and loading from a Hub, with the real client in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.hub.loopback import TOKEN, LoopbackHub, loopback_hub
from tests.tiny import NUM_LABELS, routable
from transformers import ViTImageProcessorPil, pipeline

from quee_hf.hub.card import MARKER

REPO, SECRET, TRAINED = "org/quee-tiny", "org/quee-secret", "org/quee-trained"
POINTS = [
    {"cost_lambda": 0.0, "cost": 1.0, "accuracy": 0.9, "num_images": 50, "exit_shares": [0.0, 0.0, 1.0]},
    {"cost_lambda": 0.3, "cost": 0.6, "accuracy": 0.8, "num_images": 50, "exit_shares": [0.5, 0.2, 0.3]},
]
_PUBLISH = """
model.push_to_hub("org/quee-tiny", tags=["tiny"])
processor.push_to_hub("org/quee-tiny")
model.config.cost_lambda = 0.3
model.push_to_hub("org/quee-tiny", revision="cheap", commit_message="A cheaper default")
model.push_to_hub("org/quee-secret", private=True, token=token)
processor.push_to_hub("org/quee-secret", token=token)

import torch
from quee_hf import GateTrainer, recommended_arguments

class Images(torch.utils.data.Dataset):
    def __len__(self): return 8
    def __getitem__(self, i): return {"pixel_values": torch.randn(3, 32, 32), "labels": i % 5}

arguments = recommended_arguments("trained", num_train_epochs=1, hub_model_id="org/quee-trained", use_cpu=True)
trainer = GateTrainer(model, arguments, train_dataset=Images(), eval_dataset=Images())
trainer.train()
trainer.push_to_hub()
"""


def run(folder: Path, hub: LoopbackHub, code: str, *, fails: bool = False, **environment: str) -> str:
    """Run code where the Hub is the loopback's, and return what it printed last, or all that it complained of."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**inherited, **settings, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A routable model and its processor in a directory."""
    folder = tmp_path_factory.mktemp("saved")
    model = routable(levels=[8, 4])
    model.config.operating_points = POINTS
    model.config.id2label = {index: f"kind {index}" for index in range(NUM_LABELS)}
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    Image.effect_noise((40, 30), 90).convert("RGB").save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def hub(saved, tmp_path_factory):
    """A Hub to which the model was pushed."""
    with loopback_hub() as hub:
        loading = f"""
from transformers import AutoImageProcessor
from quee_hf import QuEEForImageClassification
token = {TOKEN!r}
model = QuEEForImageClassification.from_pretrained({str(saved)!r})
processor = AutoImageProcessor.from_pretrained({str(saved)!r}, backend="pil")
"""
        run(tmp_path_factory.mktemp("publisher"), hub, loading + _PUBLISH + "\nprint('done')", HF_TOKEN=TOKEN)
        yield hub


class TestPushed:
    def test_repository_holds_what_a_directory_holds(self, hub, saved):
        files = hub.files(REPO)
        assert set(files) == {file.name for file in saved.iterdir()} - {"image.png"}
        assert files["model.safetensors"] == (saved / "model.safetensors").read_bytes()

    def test_card_names_the_repository(self, hub):
        card = hub.files(REPO)["README.md"].decode()
        assert f'model="{REPO}"' in card
        assert MARKER in card
        assert "\n- tiny\n" in card

    def test_branch_leaves_main_alone(self, hub):
        assert json.loads(hub.files(REPO, "cheap")["config.json"])["cost_lambda"] == 0.3
        assert json.loads(hub.files(REPO)["config.json"])["cost_lambda"] is None

    def test_trainer_pushes_the_models_own_card(self, hub):
        files = hub.files(TRAINED)
        assert f'model="{TRAINED}"' in files["README.md"].decode()
        assert json.loads(files["config.json"])["operating_points"] is None  # they were of other gates


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("visitor")


@pytest.fixture(scope="module")
def online(hub, saved, home):
    code = f"""
import json, quee_hf
from transformers import pipeline
from quee_hf import QuEEForImageClassification
image, found = {str(saved / "image.png")!r}, dict()
classify = pipeline("image-classification", model={REPO!r}, cost_lambda=0.3, return_routing=True)
found["routed"] = classify(image)
found["without task"] = pipeline(model={REPO!r})(image)
found["cheap"] = QuEEForImageClassification.from_pretrained({REPO!r}, revision="cheap").config.cost_lambda
print(json.dumps(found))
"""
    return json.loads(run(home, hub, code))


class TestLoaded:
    def test_pipeline_gives_what_the_directory_gives(self, online, saved):
        classify = pipeline("image-classification", model=str(saved), cost_lambda=0.3, return_routing=True)
        expected = classify(str(saved / "image.png"))
        assert online["routed"]["routing"]["path"] == expected["routing"]["path"]
        for found, wanted in zip(online["routed"]["scores"], expected["scores"], strict=True):
            assert found["label"] == wanted["label"]
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-6)

    def test_task_is_read_from_the_card(self, online):
        assert len(online["without task"]) == NUM_LABELS

    def test_revision(self, online):
        assert online["cheap"] == 0.3

    def test_offline_from_the_cache(self, online, hub, saved, home):
        code = f"""
import json, quee_hf
from transformers import pipeline
classify = pipeline("image-classification", model={REPO!r}, cost_lambda=0.3, return_routing=True)
print(json.dumps(classify({str(saved / "image.png")!r})))
"""
        before = len(hub.requests)
        assert json.loads(run(home, hub, code, HF_HUB_OFFLINE="1")) == online["routed"]
        assert len(hub.requests) == before


def test_private_repository_needs_the_token(hub, tmp_path):
    code = f"""
from quee_hf import QuEEForImageClassification
try:
    QuEEForImageClassification.from_pretrained({SECRET!r})
except OSError as error:
    assert {SECRET!r} in str(error), error
else:
    raise AssertionError("loaded without a token")
QuEEForImageClassification.from_pretrained({SECRET!r}, token={TOKEN!r})
print("loaded")
"""
    assert run(tmp_path, hub, code) == "loaded"


@pytest.mark.parametrize("kind", ["tampered", "truncated"])
def test_damaged_file_is_refused_and_not_kept(hub, tmp_path, kind):
    """Tampering flips a bit of a weight: sizes, shapes and values are all plausible."""
    changes = {
        "tampered": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "truncated": lambda data: data[:-100],
    }
    load = f"""
from quee_hf import QuEEForImageClassification
QuEEForImageClassification.from_pretrained({REPO!r})
print("loaded")
"""
    hub.tamper("model.safetensors", changes[kind])
    try:
        message = run(tmp_path, hub, load, fails=True)
    finally:
        hub.restore()
    assert "model.safetensors" in message
    if kind == "tampered":
        assert "IncompatibleCheckpointError" in message
    cached = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 20_000]
    assert not cached, "what is wrong must not stay in the cache as if it were right"
    assert run(tmp_path, hub, load) == "loaded"


def test_changed_config_is_refused_and_not_kept(hub, tmp_path):
    """It says another cost model, in as many bytes, and would be believed."""
    load = f"""
from quee_hf import QuEEForImageClassification
print(QuEEForImageClassification.from_pretrained({REPO!r}).config.cost_model)
"""
    hub.tamper("config.json", lambda data: data.replace(b'"bitops"', b'"flops" '))
    try:
        message = run(tmp_path, hub, load, fails=True)
    finally:
        hub.restore()
    assert "IncompatibleCheckpointError: config.json is not the file that the Hub says it is" in message
    assert run(tmp_path, hub, load) == "bitops"


@pytest.mark.parametrize("is_json", [True, False], ids=["plausible", "broken"])
def test_changed_image_processor_is_refused_and_not_kept(hub, tmp_path, is_json):
    load = f"""
import quee_hf
from transformers import pipeline
print(pipeline("image-classification", model={REPO!r}).image_processor.rescale_factor)
"""

    def change(data):
        return data.replace(b"0.00392", b"0.90392") if is_json else b"{" + data

    expected = run(tmp_path, hub, load)
    (blob,) = {path.resolve() for path in tmp_path.rglob("preprocessor_config.json")}
    blob.write_bytes(change(blob.read_bytes()))
    message = run(tmp_path, hub, load, fails=True)
    if is_json:
        assert "IncompatibleCheckpointError: preprocessor_config.json is not the file" in message
        assert run(tmp_path, hub, load) == expected
    else:
        assert "not a valid JSON file" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_was_broken_is_fetched_anew(hub, saved, tmp_path, name):
    repo = "org/sharded"
    if repo not in hub.repositories:
        code = f'model.save_pretrained("sharded", push_to_hub=True, repo_id={repo!r}, max_shard_size="20KB")'
        run(tmp_path, hub, pushing(saved, code), HF_TOKEN=TOKEN)
    load = f"import quee_hf; quee_hf.QuEEForImageClassification.from_pretrained({repo!r}); print('loaded')"
    hub.tamper(name, lambda data: b"[" + data[1:])
    try:
        message = run(tmp_path, hub, load, fails=True)
    finally:
        hub.restore()
    assert f"IncompatibleCheckpointError: {name} is not the file" in message
    assert run(tmp_path, hub, load) == "loaded"


class TestRemoteCode:
    def load(self, blocked: bool) -> str:
        block = "import sys; sys.modules['quee_hf'] = None" if blocked else ""
        return f"""
{block}
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained({REPO!r}, trust_remote_code=True)
print(type(model).__module__, type(model).__name__)
"""

    def test_finds_the_installed_package(self, hub, tmp_path):
        found = run(tmp_path, hub, self.load(blocked=False))
        assert found == "quee_hf.modeling QuEEForImageClassification"

    def test_says_how_to_install_it(self, hub, tmp_path):
        message = run(tmp_path, hub, self.load(blocked=True), fails=True)
        assert "pip install quee-hf" in message


def pushing(saved, code):
    """Return code to run with the saved `model` and its `processor`."""
    return f"""
from huggingface_hub import HfApi
from transformers import AutoImageProcessor
from quee_hf import QuEEForImageClassification
api = HfApi()
model = QuEEForImageClassification.from_pretrained({str(saved)!r})
processor = AutoImageProcessor.from_pretrained({str(saved)!r}, backend="pil")
{code}
print("pushed")
"""


def test_somebodys_own_card_stays(hub, saved, tmp_path):
    """On the Hub, whoever pushes; that it stays in a directory is tested with saving."""
    code = """
from transformers import TrainingArguments
from quee_hf import GateTrainer
for repo in ("org/own-card", "org/own-trained"):
    api.create_repo(repo)
    api.upload_file(path_or_fileobj=b"# Mine", path_in_repo="README.md", repo_id=repo)
model.push_to_hub("org/own-card")
arguments = TrainingArguments("trained", hub_model_id="org/own-trained", use_cpu=True)
GateTrainer(model, arguments).push_to_hub()
"""
    assert run(tmp_path, hub, pushing(saved, code), HF_TOKEN=TOKEN) == "pushed"
    for repo in ("org/own-card", "org/own-trained"):
        files = hub.files(repo)
        assert files["README.md"] == b"# Mine"
        assert "model.safetensors" in files


def test_a_template_gives_way(hub, saved, tmp_path):
    """The image processor brings the one of transformers, whichever is pushed first."""
    code = """
processor.push_to_hub("org/processor-first")
model.push_to_hub("org/processor-first")
"""
    run(tmp_path, hub, pushing(saved, code), HF_TOKEN=TOKEN)
    assert MARKER in hub.files("org/processor-first")["README.md"].decode()


def test_the_licence_chosen_on_the_website_stays(hub, saved, tmp_path):
    code = """
api.create_repo("org/licensed")
form = b"---\\nlicense: mit\\n---\\n"
api.upload_file(path_or_fileobj=form, path_in_repo="README.md", repo_id="org/licensed")
model.push_to_hub("org/licensed")
"""
    run(tmp_path, hub, pushing(saved, code), HF_TOKEN=TOKEN)
    card = hub.files("org/licensed")["README.md"].decode()
    assert MARKER in card
    assert "license: mit" in card


def test_weights_of_an_earlier_push_go(hub, saved, tmp_path):
    """Left there, they would be downloaded, or even loaded, in place of the later ones."""
    code = """
model.save_pretrained("sharded", push_to_hub=True, repo_id="org/changing", max_shard_size="20KB", tags=["x"])
"""
    run(tmp_path, hub, pushing(saved, code), HF_TOKEN=TOKEN)
    assert len([name for name in hub.files("org/changing") if name.startswith("model-0")]) > 1
    assert "\n- x\n" in hub.files("org/changing")["README.md"].decode()
    run(tmp_path, hub, pushing(saved, 'model.push_to_hub("org/changing")'), HF_TOKEN=TOKEN)
    assert [name for name in hub.files("org/changing") if "safetensors" in name] == ["model.safetensors"]


def test_what_the_cache_lacks_is_said_offline(hub, tmp_path):
    code = f"import quee_hf; print(quee_hf.QuEEConfig.from_pretrained({REPO!r}).model_type)"
    assert run(tmp_path, hub, code) == "quee"
    load = f"import quee_hf; quee_hf.QuEEForImageClassification.from_pretrained({REPO!r})"
    message = run(tmp_path, hub, load, fails=True, HF_HUB_OFFLINE="1")
    assert "The cache has no model.safetensors" in message


def test_inspecting_fetches_no_weights(hub, saved, tmp_path):
    code = f"""
import json
from typer.testing import CliRunner
from quee_hf.cli.app import app
result = CliRunner().invoke(app, ["inspect", {REPO!r}, "--json"])
print(json.dumps(json.loads(result.stdout)["size_bytes"]))
"""
    size = (saved / "model.safetensors").stat().st_size
    start = len(hub.requests)
    assert run(tmp_path, hub, code) == str(size)
    assert not any("model.safetensors" in request for request in hub.requests[start:])
    assert run(tmp_path, hub, code, HF_HUB_OFFLINE="1") == "null"


def test_nothing_unloadable_is_pushed(hub, saved, tmp_path):
    code = f"""
import torch
from quee_hf import QuEEForImageClassification
model = QuEEForImageClassification.from_pretrained({str(saved)!r})
with torch.no_grad():
    next(model.parameters())[0] = torch.nan
model.push_to_hub("org/quee-nan")
"""
    assert "holds NaN" in run(tmp_path, hub, code, fails=True, HF_TOKEN=TOKEN)
    assert "org/quee-nan" not in hub.repositories
