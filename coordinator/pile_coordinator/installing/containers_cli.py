"""`pilechain install containers`: compose.yaml and Containerfile of a site, for machines that keep programs in containers."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from pile_coordinator.config import load_config
from pile_coordinator.web.config import load_web_config
from pile_shared.errors import ConfigError

_DESCRIPTION = """\
Write compose.yaml and a Containerfile for a site: mosquitto, the coordinator, the web server where there is a web.toml, and
MariaDB where coordinator.toml keeps the evidence there. The containers use the network of the machine, so that each listens
where its file says and nowhere else; they run as the owner of the site's files, without rights, on file systems they cannot
change, with the site at the same path as outside."""

CONTAINERFILE = """\
# made by `pilechain install containers`; build it where the wheel and its constraints are (make wheel)
FROM python:3.11-slim-bookworm
COPY pilechain-*.whl constraints.txt /tmp/wheel/
RUN pip install --no-cache-dir --constraint /tmp/wheel/constraints.txt "$(echo /tmp/wheel/pilechain-*.whl)[web,mariadb]" \\
 && rm -r /tmp/wheel
ENV PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["pilechain"]
"""

_HEAD = """\
# made by `pilechain install containers`
name: pilechain
x-confined: &confined
  network_mode: host
  user: "{owner}"
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  pids_limit: 256
  restart: unless-stopped
  logging: {{driver: local, options: {{max-size: 50m, max-file: "10"}}}}
services:
"""

_BROKER = """\
  mosquitto:
    <<: *confined
    image: eclipse-mosquitto:2.0
    command: ["mosquitto", "-c", "{config}"]
    mem_limit: 2g
    ulimits: {{nofile: {files}}}
    volumes:
      - "{folder}:{folder}"
    healthcheck: {{test: ["CMD", "nc", "-z", "{host}", "{port}"], interval: 30s, timeout: 5s, retries: 3}}
"""

_COORDINATOR = """\
  coordinator:
    <<: *confined
    build: {{context: ., dockerfile: Containerfile}}
    image: pilechain
    command: ["run", "--config", "{config}"]
    depends_on: [{needs}]
    mem_limit: 4g
    tmpfs: [/tmp]
    stop_grace_period: 60s
    volumes:
      - "{site}:{site}:ro"
      - "{data}:{data}"
    healthcheck:
      test: ["CMD", "pilechain", "doctor", "--config", "{config}", "--only", "running", "--only", "ledger"]
      interval: 60s
      timeout: 30s
      retries: 3
"""

_WEB = """\
  web:
    <<: *confined
    image: pilechain
    command: ["web", "--config", "{web}"]
    depends_on: [coordinator]
    mem_limit: 1g
    tmpfs: [/tmp]
    environment: {{NICEGUI_STORAGE_PATH: /tmp/nicegui}}
    volumes:
      - "{site}:{site}:ro"
      - "{data}:{data}"
    healthcheck:
      test: ["CMD", "python", "-c", "from urllib.request import urlopen; urlopen('http://{listen}:{port}/healthz', timeout=5)"]
      interval: 30s
      timeout: 10s
      retries: 3
"""

_MARIADB = """\
  mariadb:
    image: mariadb:10.11
    network_mode: host
    command: ["--bind-address=127.0.0.1", "--character-set-server=utf8mb4", "--collation-server=utf8mb4_bin"]
    restart: unless-stopped
    security_opt: ["no-new-privileges:true"]
    mem_limit: 2g
    environment:
      MARIADB_ROOT_PASSWORD_FILE: /run/secrets/mariadb-root
      MARIADB_DATABASE: {database}
      MARIADB_USER: {user}
      MARIADB_PASSWORD_FILE: /run/secrets/mariadb-evidence
    secrets: [mariadb-root, mariadb-evidence]
    volumes: ["evidence:/var/lib/mysql"]
    healthcheck:
      test: ["CMD", "healthcheck.sh", "--connect", "--innodb_initialized"]
      interval: 30s
      timeout: 10s
      retries: 3
"""

_SECRETS = """\
secrets:
  mariadb-root: {{file: {folder}/mariadb-root}}
  mariadb-evidence: {{file: {folder}/mariadb-evidence}}
"""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What the URL of an evidence database says of it; the password is a file's."""

    database: str
    user: str


def add_command(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `containers` to `pilechain install`."""
    containers = kinds.add_parser(
        "containers",
        help="compose.yaml and Containerfile",
        description=_DESCRIPTION,
        epilog="Example: pilechain install containers --config site/coordinator.toml --to site-containers",
    )
    containers.add_argument("--config", type=Path, required=True, metavar="FILE", help="the site's coordinator.toml")
    containers.add_argument("--to", type=Path, required=True, metavar="DIR", help="where both files go; made if needed")
    containers.add_argument("--piles", type=int, default=1000, metavar="N", help="how many connect (default: 1000)")
    containers.add_argument("--json", action="store_true", help="one JSON object")
    containers.set_defaults(run=_containers)


def _containers(options: argparse.Namespace) -> int:
    files = container_files(options.config.resolve(), options.piles)
    options.to.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        if (path := options.to / name).exists() and path.read_text() != text:
            raise ConfigError(f"{path} is there and differs: move it away, or write into another folder with --to")
        (options.to / name).write_text(text)
    written = [str(options.to / name) for name in files]
    if options.json:
        print(json.dumps({"files": written}))
    else:
        print("\n".join(f"wrote {path}" for path in written))
        print(f"put the wheel and constraints.txt into {options.to}, then: docker compose up --build --detach")
    return 0


def container_files(config_file: Path, piles: int) -> dict[str, str]:
    """Text by name of the two files; ConfigError if the site is not whole."""
    config, site = load_config(config_file), config_file.parent
    broker = site / "broker" / "mosquitto.conf"
    evidence = _evidence(config.evidence_url)
    owner = config_file.stat()
    parts = [_HEAD.format(owner=f"{owner.st_uid}:{owner.st_gid}")]
    if broker.is_file():
        address = {"host": config.broker.host, "port": config.broker.port}
        parts.append(_BROKER.format(config=broker, folder=broker.parent, files=2 * piles + 1024, **address))
    needs = [*(["mosquitto"] if broker.is_file() else []), *(["mariadb"] if evidence else [])]
    parts.append(_COORDINATOR.format(config=config_file, site=site, data=config.data, needs=", ".join(needs)))
    if (site / "web.toml").is_file():
        web = load_web_config(site / "web.toml")
        listen = f"[{web.listen}]" if ":" in web.listen else web.listen
        where = {"site": site, "data": config.data}
        parts.append(_WEB.format(web=site / "web.toml", listen=listen, port=web.port, **where))
    if evidence is not None:
        parts.append(_MARIADB.format(database=evidence.database, user=evidence.user))
        parts.append("volumes:\n  evidence: {}\n")
        parts.append(_SECRETS.format(folder=site / "keys"))
    return {"compose.yaml": "".join(parts), "Containerfile": CONTAINERFILE}


def _evidence(url: str) -> _Evidence | None:
    if not url:
        return None
    from sqlalchemy import make_url  # noqa: PLC0415 - only a site with a database server needs it

    found = make_url(url)
    if not found.database or not found.username:
        raise ConfigError(
            "[evidence] url names no database or no user; expected mysql+pymysql://user:password@host/database"
        )
    return _Evidence(found.database, found.username)
