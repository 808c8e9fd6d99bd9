"""Hours of a whole site with random faults: `pilechain hil soak`. Read `soak.py` first.

plan.py    what goes wrong when: a seed gives the same plan each time
faults.py  each of them on a pile or the coordinator, by the same classes as the catalogue's
watch.py   the ledger computed again while it grows, memory of processes, sizes of logs
soak.py    orders on all piles, the plan, the watch; in the end the judge of every trial
"""
