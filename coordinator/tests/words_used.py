"""Which keys of the dashboard's words its code names: literally, or by a family."""

import re
from pathlib import Path

import pile_coordinator

FOLDER = Path(pile_coordinator.__file__).parent
SOURCES = "\n".join(
    path.read_text() for folder in ("dashboard", "driver") for path in sorted((FOLDER / folder).rglob("*.py"))
)


def families() -> set[str]:
    """The families that `word(...)` is asked for."""
    return set(re.findall(r"\bword\(\s*(?:[\w.]+\.?language,\s*)?\"([a-z_]+)\"", SOURCES))


def is_used(key: str) -> bool:
    """Whether any code can show this key."""
    family = key.partition(".")[0]
    dynamic = {"refused", "shell"} & {family}
    by_template = dynamic and re.search(rf'f"{family}\.\{{', SOURCES)
    return f'"{key}"' in SOURCES or family in families() or bool(by_template)
