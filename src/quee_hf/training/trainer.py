"""`QuEETrainer`: what the trainers of heads and gates share."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer

from quee_hf.hub.card import CARD_FILE, has_own_card, write_card
from quee_hf.hub.publish import find_own_card


class QuEETrainer(Trainer):
    """A `transformers.Trainer` whose model card is the model's own."""

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
