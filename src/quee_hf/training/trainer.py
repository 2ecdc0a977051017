"""`QuEETrainer`: what the trainers of heads and gates share."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from quee_hf.hub.card import CARD_FILE, is_own_text, write_card


class QuEETrainer(Trainer):
    """A `transformers.Trainer` whose model card is the model's own."""

    def create_model_card(self, *_args: Any, **fields: Any) -> None:
        """Write the model's card into the output directory, unless there is one that somebody wrote.

        Args:
            **fields: As in transformers; of them `tags` is used.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        card = folder / CARD_FILE
        if card.exists() and is_own_text(card.read_text(encoding="utf-8")):
            return
        tags = fields.get("tags") or ()
        model = self.accelerator.unwrap_model(self.model)
        write_card(folder, model.config, self.hub_model_id, tags=[tags] if isinstance(tags, str) else tags)
