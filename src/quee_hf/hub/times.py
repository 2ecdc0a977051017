"""What a card says of times: milliseconds of whole paths, and where they were measured."""

from typing import Any

from quee_hf.configuration import QuEEConfig
from quee_hf.measurements import Profile, path_milliseconds
from quee_hf.tables import markdown_table


def timed_paths(config: QuEEConfig) -> list[dict[str, Any]]:
    """Return how long simple paths take: exits at the most exact level, the whole network at the others.

    Returns:
        For each its levels, the block after which it leaves, and `ms`, per image at each batch size of the
        profile; nothing if there is none.
    """
    profile = config.profile
    if profile is None:
        return []
    paths = [(0,) * length for length in range(1, config.num_exits + 1)]
    paths += [(level,) * config.num_exits for level in range(1, len(config.levels))]
    return [
        {
            "path": [config.level_list[level] for level in path],
            "exit_block": config.exit_blocks[len(path) - 1],
            "ms": [round(path_milliseconds(profile, path, size), 6) for size in profile["batch_sizes"]],
        }
        for path in paths
    ]


def where_measured(profile: Profile) -> str:
    """Return engine, threads and machine of a profile, in words."""
    machine, threads = profile["machine"], profile["threads"]
    sets = f" ({', '.join(machine['instruction_sets'])})" if machine["instruction_sets"] else ""
    return (
        f"engine {profile['engine']}, {threads} {'thread' if threads == 1 else 'threads'},"
        f" {machine['processor']}{sets}"
    )


def times_section(config: QuEEConfig, _repo_id: str | None) -> str:
    """Return the section of a card; nothing if no times were measured."""
    profile = config.profile
    if profile is None:
        return ""
    rows = [
        [
            " → ".join(map(str, timed["path"])),
            str(timed["exit_block"]),
            *(f"{milliseconds:.3f}" for milliseconds in timed["ms"]),
        ]
        for timed in timed_paths(config)
    ]
    header = ["all images on", "block", *(f"ms at batch {size}" for size in profile["batch_sizes"])]
    versions = ", ".join(f"{name} {number}" for name, number in profile["versions"].items())
    return (
        f"## Time\n\nMilliseconds per image, medians of at least {min(profile['num_rounds'])} runs:"
        f" {where_measured(profile)}, {versions}, {profile['date']}. Embedding, exits, gates and decisions"
        f" are included, reading and resizing images are not.\n\n{markdown_table(header, rows)}"
    )
