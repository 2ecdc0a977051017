"""The command `quee`. Nothing heavy is imported before a verb runs: `quee --help` is to be instant."""

from quee_hf.cli.app import main

__all__ = ["main"]
