"""How a process that works for this one begins: it must neither take its signals nor outlive it."""

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """Ctrl-C is the parent's to handle; its death, however it comes, is ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
