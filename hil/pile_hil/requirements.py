"""One rule, for every test suite, about what a machine may lack."""

import os


def require(condition: bool, reason: str) -> None:
    """Skip the running test unless a tool it needs is there.

    A laptop may lack a broker or a firmware interpreter; then the test skips and says so. Where everything is meant to
    be installed, PILECHAIN_REQUIRE_ALL=1 turns that skip into a failure, so that nothing is left out unnoticed.

    Args:
        condition: Whether the test can run.
        reason: What is missing and how to get it, for the person who reads the summary.
    """
    if condition:
        return
    import pytest  # noqa: PLC0415 - the package is installed without test tools too

    if os.environ.get("PILECHAIN_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason} (PILECHAIN_REQUIRE_ALL is set)", pytrace=False)
    pytest.skip(reason)
