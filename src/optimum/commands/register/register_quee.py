"""Register `optimum-cli quee`, which is `quee`; optimum imports every file of this folder when it starts."""

import sys
from argparse import REMAINDER, ArgumentParser
from typing import ClassVar

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

# Of `quee`, which takes seconds to import.
VERBS = (
    "convert",
    "embed-classes",
    "build",
    "quantize",
    "train-heads",
    "train-gates",
    "evaluate",
    "profile",
    "certify",
    "compare",
    "noise",
    "rescue",
    "predict",
    "drift",
    "demo",
    "inspect",
    "set-classes",
    "card",
    "export",
    "push",
)


class QuEECommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum ships no types
    """Hand everything after `quee` to the command of that name."""

    COMMAND: ClassVar[CommandInfo] = CommandInfo(
        name="quee", help="Early exits and multi-bit quantization for vision transformers, see `quee --help`."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Take all arguments as they are."""
        parser.description = f"Verbs: {', '.join(VERBS)}. `optimum-cli quee VERB --help` says more of each."
        parser.add_argument("arguments", nargs=REMAINDER, help="A verb and its options, as for `quee`.")

    def run(self) -> None:
        """Run the command."""
        from quee_hf.cli.app import app  # optimum starts faster without it

        sys.exit(app(self.args.arguments, prog_name="optimum-cli quee"))


REGISTER_COMMANDS = [QuEECommand]
