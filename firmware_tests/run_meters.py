"""Runs under MicroPython: decodes meter readings, one JSON line each, and prints what came out as JSON lines.

Argument: a file of {"profile": board profile, "blocks": [hexadecimal...]} lines.
"""

import json
import sys
from binascii import hexlify, unhexlify

from pile_edge.meters.decode import decode, load_profile
from pile_shared.errors import PilechainError

with open(sys.argv[1]) as file:  # noqa: PTH123 - no pathlib here
    for line in file:
        case = json.loads(line)
        try:
            sample = decode(load_profile(case["profile"]), [unhexlify(block) for block in case["blocks"]])
            print(json.dumps([sample.energy_wh, sample.power_w, hexlify(sample.raw).decode(), sample.step_wh]))
        except PilechainError as error:
            print(json.dumps([error.code]))
