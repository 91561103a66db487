"""The message about a folder whose making was interrupted, with what mends it."""

from collections.abc import Sequence
from pathlib import Path


def half_made(path: Path, command: str, parts: Sequence[str]) -> str:
    """The message, which names the parts alone where the folder has anything else in it.

    `parts`: the names that `command` puts into a folder; a draft of one is `.NAME.…`.
    """
    found = [each.name for each in path.iterdir()]
    drafts = tuple(f".{part}." for part in parts)
    made = [name for name in parts if name in found]
    is_ours = all(name in parts or name.startswith(drafts) for name in found)
    removed = f"{path}" if is_ours else f"{', '.join(made)} in {path}, and nothing else,"
    return (
        f"{path} was left half-made by a {command} that was interrupted, and holds no data: "
        f"remove {removed} and run {command} again"
    )
