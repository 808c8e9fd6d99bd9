# Runs under MicroPython on a unix: what an ESP32 has and this build lacks, then the board's main.py, then the prompt.
# argv: address and size of the flash partition `romfs` in memory, and how much too fast the timer runs. The working
# directory is the file system. Comments instead of a docstring: it is compiled on the heap.
# ruff: noqa: ANN001, ANN003, ANN201, ANN202, ANN204, ANN205, ARG002, ARG004, BLE001, D100, D101, D102, D103, PLC0415, PTH123, PTH208, S102, S605
# mypy: ignore-errors
import gc
import os
import sys

import uctypes
import vfs as real_vfs

SECTOR_BYTES = 4096
TIMER_RATE = int(sys.argv[3])
RESET = "kill -9 $PPID"  # the shell's parent is this process; whoever holds the board starts it again


class Partition:
    TYPE_DATA = 1
    memory = uctypes.bytearray_at(int(sys.argv[1]), int(sys.argv[2]))

    @staticmethod
    def find(kind, label):
        return [Partition()] if label == "romfs" else []

    def ioctl(self, operation, sector):
        assert operation == 6
        start = sector * SECTOR_BYTES
        self.memory[start : start + SECTOR_BYTES] = b"\xff" * SECTOR_BYTES

    def writeblocks(self, sector, data, within):
        start = sector * SECTOR_BYTES + within
        for index in range(len(data)):
            self.memory[start + index] &= data[index]  # as NOR flash: programming only clears bits


class Timer:
    ONE_SHOT = 0

    def __init__(self, number):
        pass

    def init(self, mode, period, callback):
        import _thread
        import time

        def run():
            time.sleep_ms(period // TIMER_RATE)
            callback(self)

        _thread.start_new_thread(run, ())


def reset():
    os.system(RESET)


class Names:
    pass


def module(name, **names):
    made = Names()
    for key, value in names.items():
        setattr(made, key, value)
    sys.modules[name] = made


module("esp32", Partition=Partition)
module("machine", Timer=Timer, reset=reset)
module(
    "vfs",
    rom_ioctl=lambda *_: Partition.memory,
    mount=real_vfs.mount,
    umount=real_vfs.umount,
    VfsRom=real_vfs.VfsRom,
)
sys.path[:] = ["", ".frozen"]
del sys.argv[1:]
gc.collect()
if "main.py" in os.listdir():
    try:
        with open("main.py") as _file:
            _source = _file.read()
        exec(_source, {"__name__": "__main__"})
    except KeyboardInterrupt:
        print("interrupted")
    except Exception as _error:
        sys.print_exception(_error)
