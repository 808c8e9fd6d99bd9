"""Keys in chips: a real software TPM, TPM tools that are not ours, and Microchip's library over a stand-in for the chip."""

import json
import shutil
import socket
import struct
import subprocess
import sys
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pile_edge.commands.registration import fingerprint
from pile_edge.config_file import load_config
from pile_edge.signers import open_signer
from pile_edge.signers import tpm2 as t
from pile_edge.signers.hardware import HardwareSigner, SignerError, open_hardware_signer
from pile_hil.peer import secret
from pile_hil.requirements import require
from pile_shared import cose
from pile_shared.errors import ConfigError
from pile_shared.platform import es256_verify, sha256

HANDLE = 0x81010001
HALF_ORDER = cose._ORDER >> 1


class SoftwareTpm:
    """A real swtpm on two Unix sockets; `restart` is a power cut."""

    def __init__(self, folder):
        program = shutil.which("swtpm", path="/usr/bin:/usr/local/bin")
        require(program is not None, "swtpm is missing: run tools/servers")
        self.device = str(folder / "tpm")
        self.uri = f"tpm2:{HANDLE:#x}@{self.device}"
        self._command = [
            *(program, "socket", "--tpm2", "--tpmstate", f"dir={folder}"),
            *("--server", f"type=unixio,path={self.device}", "--ctrl", f"type=unixio,path={self.device}.ctrl"),
            *("--flags", "not-need-init,startup-clear"),
        ]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.device)
                return
            except OSError:
                assert self.process.poll() is None, self.process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def stop(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def restart(self):
        self.stop()
        self.start()

    def tool(self, name, *arguments):
        """Run one of tpm2-tools against this TPM; its output."""
        program = shutil.which(f"tpm2_{name}")
        require(program is not None, "tpm2-tools are missing: run tools/servers")
        command = [program, "-T", f"swtpm:path={self.device}", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def tpm(tmp_path):
    folder = tmp_path / "tpm"
    folder.mkdir()
    tpm = SoftwareTpm(folder)
    yield tpm
    tpm.stop()


def check_signer(signer):
    """What every signer promises: both s are drawn, the low one comes out, and it verifies."""
    assert signer.kid == cose.key_id(signer.public)
    for index in range(8):
        message = bytes([index]) * (index * 40)
        signature = signer.sign(message)
        assert es256_verify(signer.public, message, signature)
        assert int.from_bytes(signature[32:], "big") <= HALF_ORDER
    signed = cose.parse1(cose.sign1(b"reading", signer, b"purpose"), 200)
    signed.verify(signer.public, b"purpose")


def test_a_tpm_makes_a_key_keeps_it_and_signs(tpm, tmp_path):
    with pytest.raises(ConfigError, match="has no key at 0x81010001; make it: pile-edge key --config FILE --make"):
        open_signer(tpm.uri)
    made = open_hardware_signer(tpm.uri, make=True)
    check_signer(made)
    tpm.restart()
    assert open_signer(tpm.uri).public == made.public
    assert open_hardware_signer(tpm.uri, make=True).public == made.public  # never replaced
    message = made.sign(b"after the power cut")  # by the signer opened before it
    assert es256_verify(made.public, b"after the power cut", message)
    out = tmp_path / "public.der"
    tpm.tool("readpublic", "-c", hex(HANDLE), "-f", "der", "-o", out)
    theirs = load_der_public_key(out.read_bytes())
    assert theirs.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint) == made.public
    attributes = tpm.tool("readpublic", "-c", hex(HANDLE))
    assert "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign" in attributes


def test_each_handle_has_its_own_key_which_comes_back_when_evicted(tpm):
    first = open_hardware_signer(tpm.uri, make=True)
    other = open_hardware_signer(f"tpm2:0x81010002@{tpm.device}", make=True)
    assert first.public != other.public
    tpm.tool("evictcontrol", "-C", "o", "-c", hex(HANDLE))
    with pytest.raises(SignerError, match="it has no key at that handle"):
        first.sign(b"")
    assert open_hardware_signer(tpm.uri, make=True).public == first.public
    tpm.tool("clear")
    assert open_hardware_signer(tpm.uri, make=True).public != first.public


SIGNING = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|sign"


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("ecc256:ecdsa-sha256", SIGNING, None),
        ("ecc256", SIGNING, None),  # no scheme of its own: it takes the one it is asked for
        ("ecc384", SIGNING, "is not on the curve P-256"),
        ("ecc256:ecdsa-sha384", SIGNING, "does not sign with ECDSA and SHA-256"),
        ("rsa2048", SIGNING, "is no elliptic curve key"),
        ("ecc256:ecdsa-sha256:null", SIGNING + "|restricted", "does not sign digests"),
        ("ecc256", SIGNING.replace("fixedtpm|fixedparent", "noda"), "can be copied out of the TPM"),
        ("ecc256:aes128cfb", SIGNING.replace("sign", "restricted|decrypt"), "does not sign digests"),
    ],
)
def test_a_key_others_made_is_taken_if_it_is_one(tpm, tmp_path, kind, attributes, message):
    context = tmp_path / "key.ctx"
    tpm.tool("createprimary", "-C", "o", "-G", kind, "-a", attributes, "-c", context)
    tpm.tool("evictcontrol", "-C", "o", "-c", context, hex(HANDLE))
    tpm.tool("flushcontext", "-t")
    if message is None:
        check_signer(open_signer(tpm.uri))
        return
    with pytest.raises(ConfigError, match=message):
        open_signer(tpm.uri)


def test_passwords_are_told(tpm, tmp_path):
    tpm.tool("changeauth", "-c", "owner", "secret")
    with pytest.raises(SignerError, match="asks for a password"):
        open_hardware_signer(tpm.uri, make=True)
    context = tmp_path / "key.ctx"
    tpm.tool("createprimary", "-C", "o", "-P", "secret", "-G", "ecc256", "-a", SIGNING, "-p", "pin", "-c", context)
    tpm.tool("evictcontrol", "-C", "o", "-P", "secret", "-c", context, hex(HANDLE))
    tpm.tool("flushcontext", "-t")
    with pytest.raises(SignerError, match="asks for a password"):
        open_signer(tpm.uri).sign(b"")


def test_a_key_exchanged_under_a_running_pile_signs_nothing(tpm, tmp_path):
    signer = open_hardware_signer(tpm.uri, make=True)
    tpm.tool("evictcontrol", "-C", "o", "-c", hex(HANDLE))
    context = tmp_path / "key.ctx"
    tpm.tool("createprimary", "-C", "o", "-G", "ecc256", "-a", SIGNING, "-c", context)
    tpm.tool("evictcontrol", "-C", "o", "-c", context, hex(HANDLE))
    tpm.tool("flushcontext", "-t")
    with pytest.raises(SignerError, match="was the key replaced"):
        signer.sign(b"reading")


def test_no_tpm_no_right_no_answer(tmp_path, tpm, monkeypatch):
    with pytest.raises(SignerError, match="is there a TPM, and is its driver loaded"):
        open_signer(f"tpm2:{HANDLE:#x}@{tmp_path}/none")
    plain = tmp_path / "plain"
    plain.write_bytes(b"no TPM")
    with pytest.raises(SignerError, match="answers something that is no TPM"):
        open_signer(f"tpm2:{HANDLE:#x}@{plain}")

    def refuse(number):
        def refuse(*_):
            raise OSError(number, "refused")

        return refuse

    for number, advice in ((13, "usermod -aG tss"), (16, "another program holds it")):
        with monkeypatch.context() as patch:
            patch.setattr(t.os, "open", refuse(number))
            with pytest.raises(SignerError, match=advice):
                open_signer(f"tpm2:{HANDLE:#x}@{plain}")
    signer = open_hardware_signer(tpm.uri, make=True)
    tpm.stop()
    with pytest.raises(SignerError, match="cannot be opened"):
        signer.sign(b"")


@pytest.mark.parametrize(
    ("rc", "advice"),
    [
        (0x921, "locked out"),
        (0x101, "failure mode"),
        (0x2A2, "password"),
        (0x18B, "no key at that handle"),
        (0x184, "tpm2_rc_decode"),
    ],
)
def test_refusals_say_what_to_do(tmp_path, monkeypatch, rc, advice):
    """Codes that a healthy TPM does not give on demand, as bytes of a character device."""
    answers = answering(monkeypatch, tmp_path, [struct.pack(">HII", 0x8001, 10, rc)])
    with t.Tpm(answers) as tpm, pytest.raises(SignerError, match=advice):
        tpm.public(HANDLE)


def test_a_busy_tpm_is_asked_again_but_not_for_ever(tmp_path, monkeypatch):
    busy = struct.pack(">HII", 0x8001, 10, 0x922)
    done = struct.pack(">HIIH", 0x8001, 16, 0, 4) + b"made"
    with t.Tpm(answering(monkeypatch, tmp_path, [busy, busy, done])) as tpm:
        assert tpm.public(HANDLE) == b"made"
    with t.Tpm(answering(monkeypatch, tmp_path, [busy] * t.TRIES + [done])) as tpm, pytest.raises(SignerError):
        tpm.public(HANDLE)


def answering(monkeypatch, tmp_path, answers):
    """A file whose reads give these answers, whatever is written; and no pauses."""
    device = tmp_path / "device"
    device.write_bytes(b"")
    waiting = iter(answers)
    monkeypatch.setattr(t.os, "read", lambda _fd, _size: next(waiting))
    monkeypatch.setattr(t.time, "sleep", lambda _s: None)
    return str(device)


def test_short_numbers_are_padded_and_long_ones_refused():
    assert t._scalar(b"\x01") == bytes(31) + b"\x01"
    with pytest.raises(SignerError):
        t._scalar(bytes(33))
    template = t.key_template(HANDLE)
    for cut in range(len(template)):
        with pytest.raises(SignerError):
            t.point_of(template[:cut])


@pytest.mark.parametrize(
    "uri",
    [
        *("tpm2:", "tpm2:1", "tpm2:0x81800000", "tpm2:key.ctx", "pkcs11:1"),
        *("atecc:", "atecc:16", "atecc:0@x", "atecc:0@256", "atecc:0@1:0x78"),
    ],
)
def test_wrong_uris_are_named(uri):
    with pytest.raises(ConfigError, match="signer"):
        open_signer(uri)


# --- ATECC: Microchip's Python library is real; below it, where its C library and the chip would be, stands this one.


class StandInChip:
    """What the adapter needs of libcryptoauth.so, over keys in memory. Not run here: the C library and a chip."""

    def __init__(self):
        self.keys = {}
        self.made = 0
        self.locked = True
        self.status = {}

    def __getitem__(self, _name):
        raise ValueError

    def atcab_init(self, config):
        self.config = config._obj
        return self.status.get("init", 0)

    def atcab_is_locked(self, _zone, locked):
        locked._obj.value = self.locked
        return self.status.get("locked", 0)

    def atcab_get_pubkey(self, slot, point):
        if slot not in self.keys:
            return self.status.get("no_key", -12)
        point._obj.raw = self.keys[slot].public[1:]
        return 0

    def atcab_genkey(self, slot, point):
        self.made += 1
        self.keys[slot] = cose.SoftwareSigner(secret(100 + self.made))
        point._obj.raw = self.keys[slot].public[1:]
        return 0

    def atcab_sign(self, slot, digest, signature):
        key = ec.derive_private_key(int.from_bytes(self.keys[slot]._secret, "big"), ec.SECP256R1())
        r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
        signature._obj.raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.status.get("sign", 0)


@pytest.fixture
def chip():
    try:
        import cryptoauthlib as library
    except ImportError:
        require(False, "cryptoauthlib is missing: install the extra `atecc`")
    real = library.get_cryptoauthlib()
    stand_in = StandInChip()
    stand_in.cfg = library.cfg_ateccx08a_i2c_default()
    library.load_cryptoauthlib(stand_in)
    library_config = library.cfg_ateccx08a_i2c_default
    library.cfg_ateccx08a_i2c_default = lambda: stand_in.cfg
    yield stand_in
    library.cfg_ateccx08a_i2c_default = library_config
    library.load_cryptoauthlib(real)


def test_a_secure_element_makes_a_key_once_and_signs(chip):
    with pytest.raises(ConfigError, match="slot 2 has no key; make it"):
        open_signer("atecc:2")
    made = open_hardware_signer("atecc:2@7:0x35", make=True)
    check_signer(made)
    assert (chip.config.cfg.atcai2c.bus, chip.config.cfg.atcai2c.address) == (7, 0x6A)
    assert open_hardware_signer("atecc:2", make=True).public == made.public
    assert (chip.config.cfg.atcai2c.bus, chip.config.cfg.atcai2c.address) == (1, 0xC0)
    assert chip.made == 1
    assert made.public[1:] == chip.keys[2].public[1:]


def test_a_disturbed_secure_element_never_makes_a_key(chip):
    for status in (-16, -26, -27, -15, -44, 5):
        chip.status = {"no_key": status}
        with pytest.raises(SignerError, match="does not tell the key of slot 0"):
            open_hardware_signer("atecc:0", make=True)
    assert chip.made == 0


def test_a_secure_element_says_what_to_check(chip):
    signer = open_hardware_signer("atecc:0", make=True)
    chip.status = {"sign": -16}
    with pytest.raises(SignerError, match="ATCA_COMM_FAIL: check the wiring"):
        signer.sign(b"")
    chip.status = {"init": -7}
    with pytest.raises(SignerError, match="cannot be opened: ATCA_NO_DEVICES: check that I2C is on"):
        open_signer("atecc:0")
    chip.status = {}
    chip.locked = False
    with pytest.raises(SignerError, match="its configuration is not locked"):
        open_signer("atecc:0")
    chip.locked = True
    chip.keys[0] = cose.SoftwareSigner(secret(5))
    with pytest.raises(SignerError, match="was the key replaced"):
        signer.sign(b"")


def test_without_the_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptoauthlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'pilechain\[atecc\]'"):
        open_signer("atecc:0")


def test_the_base_signs_nothing_by_itself():
    with pytest.raises(NotImplementedError):
        HardwareSigner("nowhere", bytes(65)).sign(b"")


# --- the ceremony


def pile_edge(*arguments):
    command = [sys.executable, "-m", "pile_edge.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_ceremony_with_a_tpm(tpm, tmp_path, write_config):
    path = write_config(tmp_path, tpm.uri)
    refused = pile_edge("key", "--config", path)
    assert refused.returncode == 2
    assert "make it: pile-edge key" in refused.stderr
    made = pile_edge("key", "--config", path, "--make")
    assert made.returncode == 0, made.stderr
    told = json.loads(pile_edge("key", "--config", path, "--json").stdout)
    assert told["signer"] == tpm.uri == load_config(path).signer
    assert told["public"] == open_signer(tpm.uri).public.hex()
    assert told["fingerprint"] == sha256(bytes.fromhex(told["public"])).hex()
    assert f"fingerprint  {fingerprint(bytes.fromhex(told['public']))}\n" in made.stdout
    tpm.stop()
    gone = pile_edge("key", "--config", path)
    assert gone.returncode == 1
    assert "cannot be opened" in gone.stderr


def test_the_ceremony_with_a_file(tmp_path, write_config):
    path = write_config(tmp_path, "file:pile.key")
    made = json.loads(pile_edge("key", "--config", path, "--make", "--json").stdout)
    assert json.loads(pile_edge("key", "--config", path, "--make", "--json").stdout) == made
    assert made["signer"] == f"file:{tmp_path}/pile.key"


@pytest.fixture
def write_config():
    from pile_hil.peer import Chain

    def write(folder, signer):
        rows = "\n".join(
            f'[[validators]]\nparty = "{one.party}"\npublic = "{one.public.hex()}"\npower = {one.power}'
            for one in Chain().validators
        )
        path = folder / "pile.toml"
        path.write_text(
            f'chain_id = "valley"\npile_id = "pile-1"\nsigner = "{signer}"\n{rows}\n'
            '[mqtt]\nhost = "localhost"\nport = 1883\n[bus]\nkind = "tcp"\nhost = "localhost"\nport = 502\n'
            '[meter]\nprofile = "abb-b23"\nunit = 1\nserial = "1"\nrated_power_w = 11000\n'
            '[control]\nkind = "coil"\nunit = 2\ncoil = 0\n[journal]\npath = "journal"\n'
        )
        return path

    return write
