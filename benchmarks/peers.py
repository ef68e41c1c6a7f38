"""Each competitor's program, configuration and versions: a plain reverse proxy in front of the same upstream.

What the machine lacks, or what a peer cannot do, raises `Absent` with the reason, and the report says so.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.measure import Command

HERE = Path(__file__).resolve().parent
WHEELS = ("traefik", "caddy")  # the group `bench` of pyproject.toml


class Absent(Exception):
    """Why there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: an empty directory, the ports to listen on and to forward to, Redis for counters."""

    directory: Path
    port: int
    upstream_port: int
    redis_socket: str


def program(name: str) -> str:
    """Beside the interpreter, in `<venv>/bench/bin` (`make bench-peers`), or on the PATH."""
    places = (Path(sys.executable).parent, Path(sys.prefix) / "bench" / "bin")
    for place in places:
        if (place / name).exists():
            return str(place / name)
    found = shutil.which(name)
    if not found:
        raise Absent(f"there is no {name} here" + (", `make bench-peers` brings it" if name in WHEELS else ""))
    return found


def traefik(case: Case, place: Place) -> Command:
    """policies: the rate limit of all callers in Redis, a JSON access log, Prometheus. It has no API keys to check."""
    entry = f"--entrypoints.web.address=127.0.0.1:{place.port}"
    arguments = [program("traefik"), entry, f"--providers.file.filename={place.directory}/dynamic.yml"]
    arguments += ["--global.checknewversion=false", "--global.sendanonymoususage=false"]  # nothing leaves the machine
    service = {"loadBalancer": {"servers": [{"url": f"http://127.0.0.1:{place.upstream_port}"}]}}
    rules = ["PathPrefix(`/`)"] if case.routes == 1 else [f"PathPrefix(`/r{n}/`)" for n in range(case.routes)]
    routers = {f"r{n}": {"rule": rule, "service": "upstream"} for n, rule in enumerate(rules)}
    http: dict[str, object] = {"routers": routers, "services": {"upstream": service}}
    if case.policies:
        limit = {"average": 1_000_000, "burst": 1_000_000, "redis": {"endpoints": [place.redis_socket]}}
        http["middlewares"] = {"limit": {"rateLimit": limit}}
        http["routers"] = {name: {**router, "middlewares": ["limit"]} for name, router in routers.items()}
        arguments += [f"--accesslog.filepath={place.directory}/access.json", "--accesslog.format=json"]
        arguments += ["--metrics.prometheus=true", "--metrics.prometheus.entrypoint=web"]
    (place.directory / "dynamic.yml").write_text(json.dumps({"http": http}))  # JSON is YAML
    return Command(arguments, {"HOME": str(place.directory)})


def caddy(case: Case, place: Place) -> Command:
    only_forwards(case, "it has no rate limit in Redis")
    site = f"http://127.0.0.1:{place.port} {{\n reverse_proxy 127.0.0.1:{place.upstream_port}\n}}\n"
    text = "{\n admin off\n auto_https off\n persist_config off\n}\n" + site
    (place.directory / "Caddyfile").write_text(text)
    home = str(place.directory)
    environment = {"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
    return Command([program("caddy"), "run", "--config", "Caddyfile", "--adapter", "caddyfile"], environment)


NGINX = """
daemon off; worker_processes 1; pid {place.directory}/nginx.pid; error_log {place.directory}/error.log;
worker_rlimit_nofile 20000; events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; client_max_body_size 0;
  client_body_temp_path {place.directory}/body; proxy_temp_path {place.directory}/proxy;
  fastcgi_temp_path {place.directory}/fastcgi; uwsgi_temp_path {place.directory}/uwsgi;
  scgi_temp_path {place.directory}/scgi;
  upstream behind {{ server 127.0.0.1:{place.upstream_port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{ proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


def nginx(case: Case, place: Place) -> Command:
    only_forwards(case, "it has no rate limit in Redis")
    (place.directory / "nginx.conf").write_text(NGINX.format(place=place))
    log = f"{place.directory}/error.log"
    return Command([program("nginx"), "-e", log, "-p", str(place.directory), "-c", "nginx.conf"], {})


HAPROXY = """
global
  nbthread 1
  maxconn 20000
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 60s
frontend web
  bind 127.0.0.1:{place.port}
  default_backend behind
backend behind
  http-reuse always
  server upstream 127.0.0.1:{place.upstream_port}
"""


def haproxy(case: Case, place: Place) -> Command:
    only_forwards(case, "it has no rate limit in Redis")
    (place.directory / "haproxy.cfg").write_text(HAPROXY.format(place=place))
    return Command([program("haproxy"), "-db", "-f", "haproxy.cfg"], {})


def django(case: Case, place: Place) -> Command:
    """What a Django developer would write, on stock daphne: see `django_way/`."""
    only_forwards(case, "it is a view that forwards")
    return daphne("benchmarks.django_way.asgi:application", place)


def hello(case: Case, place: Place) -> Command:
    """Stock daphne answers by itself: the least that any gateway on it can cost."""
    if case.name != "plain":
        raise Absent("it forwards nothing")
    return daphne("benchmarks.hello:application", place)


def daphne(application: str, place: Place) -> Command:
    arguments = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(place.port), "-v", "0", application]
    upstream = f"http://127.0.0.1:{place.upstream_port}"
    return Command(arguments, {"PYTHONPATH": str(HERE.parent), "BENCHMARK_UPSTREAM": upstream})


def only_forwards(case: Case, reason: str) -> None:
    if case.policies:
        raise Absent(reason)
    if case.routes > 1:
        raise Absent("its configuration has one route here")


PEERS: dict[str, Callable[[Case, Place], Command]] = {
    "traefik": traefik,
    "caddy": caddy,
    "nginx": nginx,
    "haproxy": haproxy,
    "daphne-hello": hello,
    "django-way": django,
}

SAYS_VERSION = {"traefik": "version", "caddy": "version", "nginx": "-v", "haproxy": "-v"}


def version_of(peer: str) -> str:
    """Raises Absent."""
    if peer not in SAYS_VERSION:
        return f"daphne {version('daphne')}, Django {version('django')}, httpx {version('httpx')}"
    done = subprocess.run([program(peer), SAYS_VERSION[peer]], capture_output=True, text=True, timeout=20)
    line = next(iter((done.stdout or done.stderr).splitlines()), "?").split(" h1:")[0]  # without Caddy's checksum
    return " ".join(line.removeprefix("Version:").removeprefix("nginx version:").split())
