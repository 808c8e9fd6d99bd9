"""Hardware for tests and the demo, simulated so that the real drivers talk to it."""
