"""Fuzzing of everything that takes bytes from a stranger: one target per decoder, run by libFuzzer through atheris.

`python -m fuzz` (with `tests` on the path; `make fuzz` sees to that) runs them, docs/fuzz.md is the guide.
"""
