"""Which keys of the dashboard's words its code names: literally, or by a family."""

import re
from functools import cache
from pathlib import Path

import pile_coordinator

FOLDER = Path(pile_coordinator.__file__).parent
SOURCES = "\n".join(path.read_text() for path in sorted(FOLDER.rglob("*.py")) if "_pb2" not in path.name)


@cache
def families() -> set[str]:
    """The families that `word(...)` is asked for."""
    return set(re.findall(r"\bword\(\s*(?:[\w.]+\.?language,\s*)?[\"']([a-z_]+)[\"']", SOURCES))


def is_used(key: str) -> bool:
    """Whether any code can show this key."""
    family = key.partition(".")[0]
    if family == "driver":  # its pages leave the prefix away; test_driver_parts.py holds them to their keys
        return True
    dynamic = {"refused", "shell"} & {family}
    by_template = dynamic and re.search(rf'f"{family}\.\{{', SOURCES)
    return f'"{key}"' in SOURCES or f"'{key}'" in SOURCES or family in families() or bool(by_template)
