# A board's main.py: `pile-edge flash` copies this file as it is. Comments instead of a docstring: it is compiled on the heap.
# ruff: noqa: D100, E402
import gc
import sys

failed = True
try:
    import pile_boot  # type: ignore[import-not-found]

    wants_update = pile_boot.prepare()
    # Its code lies on the heap, which the agent needs; the updater imports it again.
    del pile_boot, sys.modules["pile_boot"]
    gc.collect()
    if wants_update:
        from pile_board.part_update import update_software as main  # type: ignore[import-not-found]
    else:
        from pile_board.part_agent import main  # type: ignore[import-not-found]
    failed = main(["config.cbor", "run"])
except Exception as error:  # noqa: BLE001 - whatever it was is shown, and only a restart can mend it
    sys.print_exception(error)  # type: ignore[attr-defined]
if failed:
    import time

    time.sleep(5)  # for whoever reads the console, and for the flash, if it fails again at once
import machine  # type: ignore[import-not-found]

machine.reset()
