"""Under MicroPython: the least a signing board does, for finding out how little heap is enough."""

from pile_shared import p256

secret = bytes(range(1, 33))
public = p256.public_key(secret)
for count in range(20):
    signature = p256.sign(secret, bytes(count))
    assert p256.verify(public, bytes(count), signature)
print("done")
