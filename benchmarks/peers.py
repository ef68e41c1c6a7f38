"""Each competitor's program, configuration and versions: a plain reverse proxy in front of the same upstream.

What the machine lacks, or what a peer cannot do, raises `Absent` with the reason, and the report says so.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.metadata import version

from benchmarks import pythons
from benchmarks.cases import Case
from benchmarks.measure import Command
from benchmarks.place import Absent, Place, only_forwards, package, program, target


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
    if case.bulk_bytes:
        raise Absent("it buffers bodies on disk")
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


PEERS: dict[str, Callable[[Case, Place], Command]] = {
    "traefik": traefik,
    "caddy": caddy,
    "nginx": nginx,
    "haproxy": haproxy,
    "daphne-hello": pythons.hello,
    "django-way": pythons.django,
    "fastapi-proxy-lib": pythons.fastapi,
    "litellm": pythons.litellm,
    "granian": pythons.granian,
    "relay": pythons.relay,
}

#: Servers that run our own application: clients need the headers they need with us, and the environment is ours.
OURSELVES_ON = ("granian",)

SAYS_VERSION = {"traefik": "version", "caddy": "version", "nginx": "-v", "haproxy": "-v"}
PACKAGES = {"fastapi-proxy-lib": "fastapi", "litellm": "litellm", "granian": ""}


def version_of(peer: str) -> str:
    """Raises Absent."""
    if peer in PACKAGES:
        return package(peer, target(PACKAGES[peer]))
    if peer == "relay":
        return f"uvloop {version('uvloop')}"
    if peer not in SAYS_VERSION:
        return f"daphne {version('daphne')}, Django {version('django')}, httpx {version('httpx')}"
    done = subprocess.run([program(peer), SAYS_VERSION[peer]], capture_output=True, text=True, timeout=20)
    line = next(iter((done.stdout or done.stderr).splitlines()), "?").split(" h1:")[0]  # without Caddy's checksum
    return " ".join(line.removeprefix("Version:").removeprefix("nginx version:").split())
