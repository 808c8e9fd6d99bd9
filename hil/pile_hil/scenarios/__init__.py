"""The fault catalogue: scenarios that a rig runs. Read `registry` first."""
