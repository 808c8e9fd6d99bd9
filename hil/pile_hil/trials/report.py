"""The results of a folder of trials, for people (one HTML file that needs nothing else) and for machines (JUnit XML)."""

import xml.etree.ElementTree as ET
from html import escape
from pathlib import Path

from pile_hil.trials.facts import FILE
from pile_hil.trials.judge import Record
from pile_hil.trials.plot import curves, draw
from pile_hil.trials.runner import FAILED, SKIPPED, STOPPED, VERDICT, Verdict
from pile_shared.errors import ConfigError, PilechainError

HTML, JUNIT = "report.html", "junit.xml"
LOG_BYTES = 3000  # of each log, its end
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .25em .7em .25em 0; vertical-align: top }
th { border-bottom: 1px solid #999 } td.n, th.n { text-align: right } pre { background: #f5f5f5; padding: .7em; overflow: auto;
font-size: 12px } h2 { border-top: 1px solid #ccc; padding-top: 1em; margin-top: 2em } .passed { color: #1b7837 }
.failed { color: #b2182b; font-weight: bold } .skipped, .stopped { color: #a6611a } svg { max-width: 100%; height: auto }
"""


def verdicts_of(folder: Path) -> list[tuple[Path, Verdict]]:
    """The trials below a folder with their verdicts, by name; ConfigError if there are none."""
    found = [(path.parent, Verdict.load(path.parent)) for path in sorted(folder.glob(f"*/{VERDICT}"))]
    if not found:
        raise ConfigError(f"{folder}: no verdicts here; give the --out folder of `pilechain hil run`")
    return found


def write_junit(trials: list[tuple[Path, Verdict]], path: Path) -> None:
    """One test suite with a test case for each scenario, in the classes of their faults."""
    counts = {outcome: sum(v.outcome == outcome for _, v in trials) for outcome in (FAILED, SKIPPED, STOPPED)}
    seconds = sum(verdict.real_s for _, verdict in trials)
    suite = ET.Element(
        "testsuite",
        name="pilechain hil",
        tests=str(len(trials)),
        failures=str(counts[FAILED]),
        errors=str(counts[STOPPED]),
        skipped=str(counts[SKIPPED]),
        time=f"{seconds:.1f}",
    )
    for folder, verdict in trials:
        case = ET.SubElement(
            suite, "testcase", classname=verdict.fault, name=verdict.scenario, time=f"{verdict.real_s:.1f}"
        )
        kinds = {FAILED: "failure", SKIPPED: "skipped", STOPPED: "error"}
        if verdict.outcome in kinds:
            ET.SubElement(case, kinds[verdict.outcome], message=_printable(verdict.why))
        if verdict.outcome == FAILED:
            logs = "\n".join(f"--- {name}\n{text}" for name, text in _logs(folder))
            ET.SubElement(case, "system-out").text = _printable(logs)
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def write_html(trials: list[tuple[Path, Verdict]], path: Path) -> None:
    """A page with a table of all, and for each scenario its picture, its checks, what happened, and the ends of its logs."""
    rows, sections = [], []
    for folder, verdict in trials:
        energies, section = _section(folder, verdict)
        cells = "".join(f'<td class="n">{value}</td>' for value in energies)
        name = escape(verdict.scenario)
        rows.append(
            f'<tr><td><a href="#{name}">{name}</a></td><td>{escape(verdict.fault)}</td>'
            f'<td class="{verdict.outcome}">{verdict.outcome}</td>{cells}<td class="n">{verdict.real_s:.0f}</td></tr>'
        )
        sections.append(section)
    counts = ", ".join(
        f"{sum(v.outcome == outcome for _, v in trials)} {outcome}"
        for outcome in dict.fromkeys(v.outcome for _, v in trials)
    )
    heads = "".join(
        f'<th class="n">{unit}</th>' for unit in ("flowed, Wh", "signed, Wh", "settled, Wh", "not signed, Wh", "s")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Pilechain rig</title>'
        f"<style>{_STYLE}</style></head><body><h1>Fault catalogue: {counts}</h1>"
        "<p>Each curve counts from the opening of the site. What flowed is the meter's own truth; where no Wh is lost, all "
        "curves of a pile end at the same height.</p>"
        f"<table><tr><th>scenario</th><th>fault</th><th>verdict</th>{heads}</tr>{''.join(rows)}</table>"
        f"{''.join(sections)}</body></html>\n",
        encoding="utf-8",
    )


def _section(folder: Path, verdict: Verdict) -> tuple[list[str], str]:
    """Flowed, signed, settled and unsigned energy, and the scenario's part of the page."""
    energies, picture, happened = ["", "", "", ""], "", ""
    if (folder / FILE).exists():
        try:
            record = Record(folder)
            found = [curves(record, pile) for pile in record.facts.piles if record.facts.series.get(pile)]
            ends = [[points[-1][1] for points in (one.flowed, one.signed, one.settled)] for one in found]
            sums = [sum(column) for column in zip(*ends, strict=True)] or [0, 0, 0]
            energies = [str(value) for value in (*sums, sum(one.lost_wh for one in found))]
            picture = draw(record)
            facts = record.facts
            happened = "\n".join(
                f"{(time_ms - facts.origin_ms) / 60_000:8.1f} min  {what}" for time_ms, what in facts.events
            )
        except (PilechainError, OSError, ValueError) as error:
            picture = f"<p>No picture: {escape(str(error))}</p>"
    checks = "".join(
        f'<tr><td class="{"passed" if check.ok else "failed"}">{"holds" if check.ok else "broken"}</td>'
        f"<td>{escape(check.name)}</td><td>{escape(check.text)}</td></tr>"
        for check in verdict.checks
    )
    logs = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>" for name, text in _logs(folder)
    )
    return energies, (
        f'<h2 id="{escape(verdict.scenario)}">{escape(verdict.scenario)}: <span class="{verdict.outcome}">'
        f"{verdict.outcome}</span></h2><p>{escape(verdict.about)}</p>"
        + (f"<p>{escape(verdict.text)}</p>" if verdict.text else "")
        + f"{picture}<table>{checks}</table>"
        + (f"<details><summary>what happened</summary><pre>{escape(happened)}</pre></details>" if happened else "")
        + logs
    )


def _logs(folder: Path) -> list[tuple[str, str]]:
    """Names and ends of a trial's logs: the agents', and those of the site's processes."""
    paths = {path.name: path for path in (*sorted(folder.glob("*.log")), *sorted(folder.glob("site/*.log")))}
    return [(name, path.read_bytes()[-LOG_BYTES:].decode(errors="replace")) for name, path in paths.items()]


def _printable(text: str) -> str:
    """Without the control characters that XML 1.0 does not allow."""
    return "".join(char for char in text if char in "\n\t" or char >= " ")
