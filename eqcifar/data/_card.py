import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ..errors import UsageError
from ._files import Files

_FRONT = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)


def check_card(name: str, files: Files):
    """Refuse a folder whose README.md, which `datasets` obeys, names files elsewhere.

    **Arguments:**

    - `name`: of the folder, for messages.
    - `files`: what is in it, as `list_files` finds it.

    **Raises:**

    `UsageError` with the first such file.
    """
    if "README.md" not in files:
        return
    text = Path(files["README.md"]).read_text(encoding="utf-8", errors="replace")
    front = _FRONT.match(text)
    try:
        card = yaml.safe_load(front[1]) if front else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(
            f"README.md of {name!r} begins with what is no YAML: mend or remove it"
        ) from error
    for each in _texts(card.get("configs") if isinstance(card, dict) else None):
        if "://" in each or each.startswith(("/", "~")) or ".." in each.split("/"):
            raise UsageError(
                f"README.md of {name!r} names {each!r}, which is outside of the "
                "folder: mend or remove it"
            )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
