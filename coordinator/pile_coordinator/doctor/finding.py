"""What a check finds."""

from dataclasses import dataclass

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for people.

    Attributes:
        check: which check found it. state: OK; WARN, it works today; FAIL, it does not; SKIP, there is nothing to check here.
        says: what is so. do: what to do about it, in one line; "" if nothing.
    """

    check: str
    state: str
    says: str
    do: str = ""


def ok(says: str) -> Finding:
    """All is well; the doctor fills in the name of the check."""
    return Finding("", OK, says)


def warn(says: str, do: str) -> Finding:
    """It works today."""
    return Finding("", WARN, says, do)


def fail(says: str, do: str) -> Finding:
    """It does not work, or is not safe."""
    return Finding("", FAIL, says, do)


def skip(says: str) -> Finding:
    """There is nothing to check here."""
    return Finding("", SKIP, says)
