"""`python -m tests.soak [--minutes 10] [--rate 100]`: a gateway under a steady load in which everything fails a little.

Six kinds of fault have a share each, and a version is published every few seconds. It reports what went otherwise than
it should, and whether workers grow. Status 1 if anything did. Everything it starts is its own and ends with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx

from gateway import embedded
from tests.e2e.gateway import Gateway, free_port, route, running, upstream
from tests.soak.kinds import FAULTS, PATIENCE_S, Ask, Client, behave, well
from tests.soak.measure import Sample, grown, samples, slope_per_min
from tests.upstream import serving

SAMPLE_S = 5.0
MAX_SLOPE_MB = 1.0  # a minute and worker
MAX_GROWN = 10  # descriptors, tasks: what a load of a hundred a second varies by
HANG_MS = 1_000


class Soak:
    def __init__(self, gateway: Gateway, key: str, token: str, wanted: argparse.Namespace) -> None:
        self.gateway, self.wanted = gateway, wanted
        self.client = Client(gateway.port, key)
        self.token = token
        self.asked: Counter[str] = Counter()
        self.unexplained: Counter[str] = Counter()
        self.well_ms: list[float] = []
        self.samples: list[Sample] = []
        self.last: list[Sample] = []
        self.published = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s, end_s = loop.time(), loop.time() + self.wanted.minutes * 60
        beside = [asyncio.create_task(self._publish()), asyncio.create_task(self._sample(begun_s))]
        turn = 0
        while loop.time() < end_s:
            await asyncio.sleep(max(0.0, begun_s + turn / self.wanted.rate - loop.time()))  # an open loop
            turn += 1
            task = loop.create_task(self._one(*self._kind()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await asyncio.gather(*self._tasks)
        await self.client.close()
        await self._settle()

    def _kind(self) -> tuple[str, Ask]:
        place = random.random() / self.wanted.share
        names = list(FAULTS)
        return (names[int(place)], FAULTS[names[int(place)]]) if place < len(names) else ("goes well", well)

    async def _one(self, name: str, ask: Ask) -> None:
        self.asked[name] += 1
        begun_s = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                wrong = await ask(self.client)
        except Exception as error:  # whatever it is, it belongs into the report
            wrong = repr(error)
        if wrong:
            self.unexplained[f"{name}: {wrong}"] += 1
        elif ask is well:
            self.well_ms.append((time.perf_counter() - begun_s) * 1000)

    async def _publish(self) -> None:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.token}"}, timeout=PATIENCE_S) as client:
            while True:
                await asyncio.sleep(self.wanted.publish_s)
                self.published += 1
                url = f"{self.gateway.url}/admin/v1/upstreams/up"
                try:
                    answer = await client.patch(url, json={"idle_timeout_ms": 30_000 + self.published})
                    if answer.status_code != 200:
                        self.unexplained[f"publishing: {answer.status_code} {answer.text[:200]}"] += 1
                except httpx.HTTPError as error:
                    self.unexplained[f"publishing: {error!r}"] += 1

    async def _sample(self, begun_s: float) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.samples += await self._look(asyncio.get_running_loop().time() - begun_s)

    async def _look(self, at_s: float) -> list[Sample]:
        pids = self.gateway.pids("gateway.server.worker")
        return await asyncio.to_thread(samples, self.gateway.url, pids, at_s)

    async def _settle(self) -> None:
        """What is left when nobody asks any more."""
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            self.last = await self._look(0.0)
            if self.last and not any(sample.in_flight for sample in self.last):
                return
            await asyncio.sleep(0.2)

    def report(self) -> bool:
        """Prints it; whether all is well."""
        warm_s = min(60.0, self.wanted.minutes * 60 / 3)
        say(f"{self.wanted.minutes:g} min at {self.wanted.rate:g} rps, {self.published} versions published")
        for name, count in self.asked.most_common():
            say(f"  {count:7} {name}")
        quantiles = statistics.quantiles(self.well_ms, n=100)
        say(f"  what goes well: median {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms")
        fine = self._report_workers(warm_s)
        log = (self.gateway.directory / "serve.log").read_text()
        traces = log.count("Traceback")
        say(f"tracebacks in the log: {traces}")
        say(f"unexplained: {sum(self.unexplained.values())}")
        for wrong, count in self.unexplained.most_common(30):
            say(f"  {count:7} {wrong}")
        return fine and not traces and not self.unexplained

    def _report_workers(self, warm_s: float) -> bool:
        fine = True
        pids = {sample.pid for sample in self.samples}
        if len(pids) != self.gateway.workers:
            say(f"a worker was replaced: {len(pids)} processes served")
            fine = False
        for pid in sorted(pids):
            mine = [sample for sample in self.samples if sample.pid == pid and sample.at_s >= warm_s]
            if len(mine) < 3:
                say(f"worker {pid}: too short a run to say anything")
                continue
            slope = slope_per_min([(sample.at_s, sample.rss_mb) for sample in mine])
            fds, tasks = grown([sample.fds for sample in mine]), grown([sample.tasks for sample in mine])
            say(
                f"worker {pid}: {mine[0].rss_mb:.0f} -> {mine[-1].rss_mb:.0f} MB, {slope:+.2f} MB/min"
                f" after {warm_s:.0f} s;"
                f" descriptors {fds:+.0f}, tasks {tasks:+.0f}"
            )
            say("  MB, each minute: " + " ".join(f"{sample.rss_mb:.0f}" for sample in mine[:: int(60 / SAMPLE_S)]))
            fine = fine and slope < MAX_SLOPE_MB and fds <= MAX_GROWN and tasks <= MAX_GROWN
        for sample in self.last:
            say(f"  afterwards {sample.pid}: {sample.fds} fds, {sample.tasks} tasks, {sample.in_flight} in flight")
            fine = fine and not sample.in_flight
        return fine


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


@contextlib.contextmanager
def gateway_of(workers: int) -> Iterator[Gateway]:
    directory = Path(tempfile.mkdtemp(prefix="hg-soak-"))
    directory.chmod(0o755)
    servers = embedded.Servers(directory)
    try:
        servers.start()
        environment = {"DATABASE_URL": servers.places.database_url, "REDIS_URL": servers.places.redis_url}
        with running(Gateway(directory, environment, workers)) as gateway:
            yield gateway
    finally:
        servers.stop()
        shutil.rmtree(directory, ignore_errors=True)


def document(port: int) -> dict[str, object]:
    return {
        "format": 1,
        "upstreams": [
            upstream("up", port, first_byte_timeout_ms=HANG_MS, eject_after=0),
            upstream("refusing", free_port(), eject_after=0),
        ],
        "routes": [route("all", "/*", "up"), route("refused", "/refused", "refusing")],
        "plugins": [
            {"name": "key-auth", "config": {}},
            {"name": "rate-limiting", "config": {"hour": 1_000_000}},
        ],
    }


async def soak(wanted: argparse.Namespace) -> bool:
    async with serving(behave) as up:
        with gateway_of(wanted.workers) as gateway:
            os.environ["DJANGO_SUPERUSER_PASSWORD"] = "only for the soak"
            gateway.manage("createsuperuser", "--noinput", "--username", "soak", "--email", "")
            token = gateway.manage("token", "create", "--user", "soak", "--scopes", "write", "--quiet").strip()
            gateway.configure(document(up.port))
            run = Soak(gateway, gateway.key("soak"), token, wanted)
            await run.run()
            return run.report()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A steady load with a share of faults.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--share", type=float, default=0.05, help="of each kind of fault")
    parser.add_argument("--publish-s", type=float, default=2.0, help="seconds between two published versions")
    parser.add_argument("--workers", type=int, default=2)
    sys.exit(0 if asyncio.run(soak(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
