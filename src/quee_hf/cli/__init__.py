"""The `quee` command, one file a verb."""
