"""What every part of Pilechain agrees on; the same files on CPython and MicroPython. Imports nothing of ours."""
