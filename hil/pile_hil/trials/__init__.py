"""Trials: a scenario on a rig, from an empty folder to a verdict. `trial` runs it, `judge` says what came of it."""
