"""`QuEETrainer`: what the trainers of heads and gates share."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast, reduce
from huggingface_hub import HfApi
from torch import Tensor, nn
from transformers import Trainer

from quee_hf.hub.card import CARD_FILE, has_own_card, write_card
from quee_hf.hub.publish import find_own_card
from quee_hf.modeling import QuEEForImageClassification

Batch = dict[str, Tensor]


class QuEETrainer(Trainer):
    """A `transformers.Trainer` that trains a part of a model, and whose model card is the model's own."""

    @abstractmethod
    def image_losses(self, model: QuEEForImageClassification, inputs: Batch) -> tuple[Tensor, Batch]:
        """Return the loss of each image of a batch, `(batch,)`, and what else is to be known of each."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the mean loss of a batch, and what else is known of its images if that is asked for."""
        losses, outputs = self.image_losses(self.accelerator.unwrap_model(model), inputs)
        return (losses.mean(), outputs) if return_outputs else losses.mean()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; several processes begin with the weights of the first."""
        if self.accelerator.use_distributed:
            for part in self._trained():
                part.data = broadcast(part.data)
        return super().train(*args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Add up the gradients of a batch; several processes then take the mean of theirs.

        What wraps a model for several processes does so only where the model's own `forward` was run, which
        trains other parts, and not at all if the model was evaluated before.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.use_distributed and self.accelerator.sync_gradients:
            for part in self._trained():
                if part.grad is not None:
                    part.grad = reduce(part.grad, "mean")
        return loss

    def _trained(self) -> Iterator[nn.Parameter]:
        model = self.accelerator.unwrap_model(self.model)
        return (part for part in model.parameters() if part.requires_grad)

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the mean loss of a batch, over all processes, and logits and labels of this one's images.

        Batches of several processes are filled up with images that have been there before. They do not count.
        """
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            losses, outputs = self.image_losses(self.accelerator.unwrap_model(model), inputs)
        loss = self.accelerator.gather_for_metrics(losses).mean()
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs.get("logits"), inputs["labels"]

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, as transformers does; a card there that somebody wrote is taken from it."""
        super().init_hf_repo(token, private)
        folder = Path(str(self.args.output_dir))
        if not self.is_world_process_zero() or has_own_card(folder):
            return
        api = HfApi(token=token or self.args.hub_token)
        card = find_own_card(api, str(self.hub_model_id), self.args.hub_revision)
        if card is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CARD_FILE).write_bytes(card)

    def create_model_card(self, *_args: Any, **fields: Any) -> None:
        """Write the model's card into the output directory, unless there is one that somebody wrote.

        Args:
            **fields: As in transformers; of them `tags` is used.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        tags = fields.get("tags") or ()
        model = self.accelerator.unwrap_model(self.model)
        write_card(folder, model.config, self.hub_model_id, tags=[tags] if isinstance(tags, str) else tags)
