"""A whole site in one process and one thread, on simulated time, from a seed: see docs/simulator.md. Begin with `world.py`."""
