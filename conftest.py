"""For all tests: how long an example of hypothesis takes says something about the machine, nothing about the code."""

from hypothesis import settings

settings.register_profile("pilechain", deadline=None)
settings.load_profile("pilechain")
