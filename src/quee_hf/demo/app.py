"""The Gradio app: components, and what happens when they change. `quee_hf.demo.views` has what they show."""

from typing import Any

import gradio as gr

from quee_hf.demo.classification import Classifier
from quee_hf.demo.settings import (
    BUDGET,
    LAMBDA,
    PATH,
    Choices,
    Setting,
    choices_of,
    describe_levels,
    slider_step,
)
from quee_hf.demo.views import FILE_COLUMNS, view_files, view_image
from quee_hf.hub.sections import title_of
from quee_hf.modeling import QuEEForImageClassification

_FORGET_AFTER = 3600  # seconds, of what was uploaded
_MOST_BYTES = "50mb"  # of one file
# Fonts that are there already: by default, pages would fetch others from the web.
_THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
_CSS = """
.alert { border-left: 4px solid #D55E00; padding: 8px 12px; background: #fdf1e9; color: #111; }
#gates table { width: 100%; }
#gates th, #gates td { overflow-wrap: normal; padding: 4px 8px; }
"""
_HELP = {
    LAMBDA: "What the whole network's cost is worth in probability of error; 0: accuracy at any price.",
    BUDGET: "The most accurate operating point of at most this mean cost, relative to the whole network's.",
    PATH: "The same path for every image.",
}


def make_app(
    model: QuEEForImageClassification, image_processor: Any, *, title: str | None = None
) -> gr.Blocks:
    """Make the demo of a model.

    Nothing is kept between requests but the model: what one visitor does, no other sees.

    Args:
        model: On its device, with its engine.
        image_processor: Makes the model's input.
        title: What to call the model; by its config if not given.

    Raises:
        NotReadyError: If the model can run no path, because it is not quantized.
    """
    classifier, choices = Classifier(model, image_processor), choices_of(model)
    name = title or title_of(model.config, None)
    app = gr.Blocks(title=name, analytics_enabled=False, delete_cache=(_FORGET_AFTER, _FORGET_AFTER))
    with app:
        gr.Markdown(f"# {name}\n\n{model.config.num_classes} classes; {describe_levels(model.config)}.")
        if choices.missing:
            gr.Markdown("\n".join(f"- {sentence}" for sentence in choices.missing), elem_id="missing")
        controls = _Controls(choices)
        with gr.Tab("One image"):
            _make_image_tab(app, classifier, controls)
        with gr.Tab("Many images"):
            _make_files_tab(classifier, controls)
    return app


def launch(app: gr.Blocks, *, host: str | None = None, port: int | None = None) -> str:
    """Serve the demo, in threads of its own, until `app.close()`.

    Args:
        app: Made by `make_app`.
        host: Address to listen at; loopback if not given, and in a Space what that needs.
        port: The first free one from 7860 on if not given.

    Returns:
        Where it is.

    Raises:
        OSError: If the port is taken.
    """
    _, url, _ = app.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        max_file_size=_MOST_BYTES,
        run_history=False,
        enable_monitoring=False,
        footer_links=["api", "gradio", "settings"],
        theme=_THEME,
        css=_CSS,
    )
    return str(url)


class _Controls:
    """The controls that say how to route: the way, and one for each, of which one is shown.

    Args:
        choices: What there is to choose.
    """

    def __init__(self, choices: Choices) -> None:
        self._choices = choices
        first, (low, high) = choices.ways[0], choices.budgets
        way = gr.Radio(
            list(choices.ways), value=first, label="Route by", visible=len(choices.ways) > 1, elem_id="way"
        )
        most = choices.most_lambda
        controls: dict[str, Any] = {
            LAMBDA: _slider(
                0, most, choices.default_lambda, step=slider_step(most), label=LAMBDA, info=_HELP[LAMBDA],
                visible=first == LAMBDA, elem_id="lambda",
            ),
            BUDGET: _slider(
                low, high, high, step=slider_step(high - low), label="Budget", info=_HELP[BUDGET],
                visible=False, elem_id="budget",
            ),
            PATH: gr.Dropdown(
                list(choices.paths), value=next(iter(choices.paths)), label="Path", info=_HELP[PATH],
                visible=first == PATH, elem_id="path",
            ),
        }  # fmt: skip
        self.components = [way, *controls.values()]
        way.change(
            lambda chosen: [gr.update(visible=name == chosen) for name in controls],
            way, list(controls.values()), show_progress="hidden", queue=False, api_visibility="private",
        )  # fmt: skip

    def setting(self, way: str, cost_lambda: float, budget: float, path: str) -> Setting:
        """Return what the controls say; the values of those that are not shown do not count."""
        if way == LAMBDA:
            return Setting(cost_lambda=cost_lambda)
        if way == BUDGET:
            return Setting(target_cost=budget)
        return Setting(path=self._choices.paths[path])


def _slider(low: float, high: float, value: float, **options: Any) -> gr.Slider:
    """Return a slider whose box takes numbers beyond its ends for the ends, and nothing for the lower one.

    Gradio's own refuses them, and covers all of the page with errors.
    """

    def read(given: float | None) -> float:
        return float(min(max(low if given is None else given, low), high))

    slider = gr.Slider(low, high, value, **options)
    slider.preprocess = read  # type: ignore  # a subclass would write files beside this one
    return slider


def _make_image_tab(app: gr.Blocks, classifier: Classifier, controls: _Controls) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            # Not an image component, which fails before we are asked if a file holds no image.
            file = gr.File(label="Image: drop it here", elem_id="image")
            picture = gr.Image(label="As it is read", interactive=False, height=270, elem_id="preview")
        with gr.Column(scale=2, min_width=420):
            message = gr.HTML(elem_id="message")
            scores = gr.Label(label="Class", num_top_classes=5, elem_id="scores")
            spent = gr.Markdown(elem_id="spent")
    route = gr.Plot(
        label="The way through blocks and levels", show_label=False, format="png", elem_id="route"
    )
    gates = gr.Markdown(elem_id="gates")
    curve = gr.Plot(label="Accuracy and cost", show_label=False, format="png", elem_id="curve")

    def show(file: str | None, *values: Any) -> tuple[Any, ...]:
        return tuple(view_image(classifier, file, controls.setting(*values)))

    gr.on(
        [app.load, file.change, *(control.change for control in controls.components)],
        show, [file, *controls.components], [message, picture, scores, spent, route, gates, curve],
        trigger_mode="always_last", show_progress="minimal", api_name="classify",
    )  # fmt: skip


def _make_files_tab(classifier: Classifier, controls: _Controls) -> None:
    with gr.Row():
        files = gr.File(label="Images: drop them here", file_count="multiple", height=160, elem_id="images")
        folder = gr.File(label="Or a folder", file_count="directory", height=160, elem_id="folder")
    run = gr.Button("Classify", variant="primary", elem_id="run")
    message = gr.HTML(elem_id="files-message")
    summary = gr.Markdown(elem_id="summary")
    shares = gr.Plot(show_label=False, format="png", elem_id="shares")
    table = gr.Dataframe(headers=list(FILE_COLUMNS), interactive=False, wrap=True, elem_id="table")

    def show(files: list[str] | None, folder: list[str] | None, *values: Any) -> tuple[Any, ...]:
        chosen = [*(files or ()), *(folder or ())]
        return tuple(view_files(classifier, chosen, controls.setting(*values)))

    run.click(
        show, [files, folder, *controls.components], [message, summary, shares, table],
        api_name="classify_files",
    )  # fmt: skip
