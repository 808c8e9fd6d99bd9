"""All texts of the dashboard, one table for each language, read from the JSON files in words/<language>/.

Keys are `section.name`. A text is a template of `str.format`: `{name}` stands for a value. A family is a group of keys that
differ in their last word only, which comes from the evidence (`state.charging`): `word` looks it up, and shows what it does not
know as it is, since a newer coordinator may write words that this one has not heard of.
"""

import json
from functools import cache
from importlib.resources import files

LANGUAGES = {"en": "English", "zh": "中文"}  # codes of the files, and what their readers call them
TAGS = {"en": "en-US", "zh": "zh-CN"}  # BCP 47, as Quasar and the browser know them
_FOLDER = "words"


@cache
def table(language: str) -> dict[str, str]:
    """Every text of a language by key; ValueError if two files have the same key."""
    texts: dict[str, str] = {}
    for file in sorted((files(__package__) / _FOLDER / language).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".json"):
            continue
        found = json.loads(file.read_text("utf-8"))
        if twice := texts.keys() & found:
            raise ValueError(f"{language}/{file.name} repeats {', '.join(sorted(twice))}")
        texts |= found
    return texts


def text(language: str, key: str, **values: object) -> str:
    """The text of a key with its values; KeyError if there is no such key, which a test finds."""
    return table(language)[key].format(**values)


def word(language: str, family: str, name: str | None) -> str:
    """The word for a name of the evidence; the name itself if it has none, and an en dash for None."""
    if name is None:
        return "–"  # noqa: RUF001 - the dash of a table's empty cell
    return table(language).get(f"{family}.{name}", name)


def preferred(accept_language: str) -> str:
    """The language to begin with, by an Accept-Language header (RFC 9110, section 12.5.4): the first we have by weight."""
    wishes = []
    for place, wish in enumerate(accept_language[:400].split(",")):
        tag, _, weight = wish.strip().partition(";")
        code = tag.strip().lower().partition("-")[0]
        quality = weight.strip().removeprefix("q=")
        is_number = quality.replace(".", "", 1).isdigit() and quality.isascii()
        wishes.append((-(float(quality) if is_number else 1.0), place, code))
    return next((code for quality, _, code in sorted(wishes) if code in LANGUAGES and quality), "en")
