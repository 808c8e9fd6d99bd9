"""Take the README's pictures: a demo's site lives for a while, and Chromium looks at its dashboard.

usage: .venv/bin/python tools/screenshot.py [SECONDS]   (how long the drivers charge before the pictures, 90 by default)

The pictures are of a real site (simulated meters and cars, real Modbus, signatures and blocks) and differ from run to run.
"""

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from pile_hil.browser import browser

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
START_S = 180
SEEN_S = 3.0  # that a page is given to draw


def main() -> int:
    """Run the demo and take the pictures; the exit status."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 90.0
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pilechain-pictures-") as folder, Path(folder, "told").open("w+b") as told:
        command = [sys.executable, "-m", "pile_coordinator.cli", "demo", "--keep", "--out", f"{folder}/out"]
        demo = subprocess.Popen(command, stdout=told, stderr=told)
        try:
            url, token = _where_and_token(Path(told.name), demo)
            time.sleep(seconds)
            with browser() as chromium:
                _take(chromium, url, token)
        finally:
            demo.send_signal(signal.SIGTERM)
            demo.wait(60)
    return 0


def _where_and_token(told: Path, demo: "subprocess.Popen[bytes]") -> tuple[str, str]:
    deadline = time.monotonic() + START_S
    while not (found := re.search(r"dashboard: (http://\S+)/ with the token (\S+)", told.read_text())):
        if demo.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the demo did not come so far:\n{told.read_text()}")
        time.sleep(0.2)
    return found[1], found[2]


def _take(chromium: Browser, url: str, token: str) -> None:
    for name, size, language in (("dashboard", WIDE, "en"), ("dashboard-phone-zh", PHONE, "zh")):
        context = chromium.new_context(viewport=size, locale={"en": "en-GB", "zh": "zh-CN"}[language])  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"{url}/sign-in")
        page.fill("input[name=token]", token)
        page.press("input[name=token]", "Enter")
        page.wait_for_selector("canvas")
        page.wait_for_timeout(SEEN_S * 1000)
        page.screenshot(path=PICTURES / f"{name}.png")
        print(PICTURES.relative_to(ROOT) / f"{name}.png")
        context.close()


if __name__ == "__main__":
    sys.exit(main())
