"""The rig as labgrid sees it: resources and drivers for sites, piles and meters, simulated and real. Read `protocols` first."""
