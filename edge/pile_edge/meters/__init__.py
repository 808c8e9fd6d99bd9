"""Energy meters: what they say in which register."""
