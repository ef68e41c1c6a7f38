"""Writes of the configuration: changing the working copy, publishing it, rolling back, replacing it by a file.

Each leaves its entries in the audit trail, for every row that differs. An author is a user, or the name of somebody at
a shell, of whom only the version tells.

Every writer takes one advisory lock first. Writers therefore go one after the other: numbers have no gaps, exactly one
version is live, and a document never mixes halves of two edits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from keys.nudge import CONFIG_CHANNEL, nudge
from keys.trail import Author, name_of
from routes import masking, sealing, selectors, trail
from routes.catalogue import fence, references, registry
from routes.compile import compile as compile_document
from routes.difference import difference
from routes.document import digest
from routes.models import ConfigVersion, PluginSetting, Upstream
from routes.problems import CompileError, Problem
from routes.restore import identified, restore

#: Workers listen here; the payload is the number of the version that went live.
_LOCK = 0x48_47_43_46  # any number nobody else uses with pg_advisory_lock in this database


@dataclass(slots=True)
class Change:
    """An edit under way. Afterwards: `version` is what is live now (None: the edit waits as a draft), `remaining` the
    problems that were there before and keep it from being published.
    """

    author: Author
    source: str
    comment: str
    before: Mapping[str, Any]
    version: ConfigVersion | None = None
    remaining: tuple[Problem, ...] = ()
    settled: bool = False

    def settle(self) -> None:
        """Publish now instead of at the end of the block. Raises CompileError."""
        self.settled = True
        document = selectors.working_document()
        trail.record(self.author, self.before, document)
        if not settings.ENVIRONMENT.autopublish:
            return
        try:
            self.version = _publish(document, self.author, self.source, self.comment)
        except CompileError as error:
            # Whoever mends a broken configuration row by row must be let; nobody may break it further.
            if set(error.problems) - set(problems_of(self.before)):
                raise
            self.remaining = error.problems


_open: ContextVar[Change | None] = ContextVar("open_change", default=None)


@contextmanager
def change(*, author: Author, source: str, comment: str = "") -> Iterator[Change]:
    """Edit the working copy inside: all of it goes live as one version, or CompileError and nothing has happened.

    With GATEWAY_AUTOPUBLISH=off the edit is kept as a draft. A change inside a change is part of it. Other writers
    wait, so keep the block short.
    """
    if (outer := _open.get()) is not None:
        yield outer
        return
    with transaction.atomic():
        _lock()
        current = Change(author, source, comment, selectors.working_document())
        token = _open.set(current)
        try:
            yield current
        finally:
            _open.reset(token)
        if not current.settled:
            current.settle()


def publish(*, author: Author, source: str, comment: str = "") -> ConfigVersion:
    """Make the working copy live. The live version itself, if nothing has changed. Raises CompileError."""
    with transaction.atomic():
        _lock()
        document = selectors.working_document()
        return _publish(document, author, source, comment, said="Published the working copy.")


def rollback(number: int, *, author: Author, source: str = "rollback", comment: str = "") -> ConfigVersion:
    """Publish an old document again and make the working copy equal to it; drafts are lost.

    Raises ConfigVersion.DoesNotExist, and CompileError when it needs plugins that are no longer there.
    """
    with transaction.atomic():
        _lock()
        document, before = selectors.document_of(number), selectors.working_document()
        compile_document(document, registry(), fence=fence(), references=references())
        after = _restored(document, before, author)
        comment = comment or f"Back to version {number}."
        return _publish(after, author, source, comment, said=f"Rolled back to version {number}.")


def _restored(document: Mapping[str, Any], before: Mapping[str, Any], author: Author) -> Mapping[str, Any]:
    """The working copy as it is now."""
    restore(document)
    after = selectors.working_document()
    trail.record(author, before, after)
    return after


def _publish(
    document: Mapping[str, Any], author: Author, source: str, comment: str, *, said: str = ""
) -> ConfigVersion:
    """Inside a transaction, under the lock. `said`: what the trail tells of the version, if the rows do not."""
    compile_document(document, registry(), fence=fence(), references=references())
    live = ConfigVersion.objects.filter(live=True).defer("document").first()
    fingerprint = digest(document)
    if live is not None and live.digest == fingerprint:
        return live
    if live is not None:
        ConfigVersion.objects.filter(pk=live.pk).update(live=False)
    version = ConfigVersion.objects.create(
        number=live.number + 1 if live else 1,
        document=document,
        digest=fingerprint,
        author=name_of(author),
        source=source,
        comment=comment,
        parent=live,
        live=True,
    )
    if said:
        trail.version_record(author, version, live.number if live else 0, said)
    nudge(CONFIG_CHANNEL, str(version.number))  # sent after the commit
    return version


@dataclass(frozen=True, slots=True)
class Imported:
    version: ConfigVersion | None  # None: a dry run
    differences: list[str]


def replace(document: object, *, author: Author, source: str, comment: str = "", dry_run: bool = False) -> Imported:
    """Make a document from outside the whole configuration, and publish it. Rows are met by name, ids in it ignored.
    Masked secrets stand for those that are stored.

    Raises CompileError.
    """
    with transaction.atomic():
        _lock()
        before = selectors.working_document()
        document, unknown = masking.unmask_document(document, before)
        wanted, problems = identified(document, before)
        told = {problem.pointer for problem in unknown}
        if problems := [*(one for one in problems_of(wanted) if one.pointer not in told), *problems, *unknown]:
            raise CompileError(problems)
        if dry_run:
            return Imported(None, difference(before, wanted))
        after = _restored(wanted, before, author)
        version = _publish(after, author, source, comment, said="Replaced the whole configuration.")
        return Imported(version, difference(before, after))


def reseal() -> int:
    """Encrypt all secrets anew, under the SECRET_KEY of now; how many rows may hold some. No version is made of it.

    What can be opened by none of the keys stays as it is.
    """
    models = {model.__name__: model for model in (PluginSetting, Upstream, ConfigVersion)}
    with transaction.atomic(), connection.cursor() as cursor:
        _lock()
        return sealing.rewrite(models, cursor.execute, lambda row, field: row.save(update_fields=[field]))


def problems_of(document: Any) -> tuple[Problem, ...]:
    try:
        compile_document(document, registry(), fence=fence(), references=references())
    except CompileError as error:
        return error.problems
    return ()


def draft() -> list[str]:
    """What publishing would change, one line for each row."""
    live = selectors.live_document()
    return difference(live[2] if live else {}, selectors.working_document())


@dataclass(frozen=True, slots=True)
class AppliedReport:
    """`ms`: from publishing until the last of the `applied` workers served it. `errors`: of workers that cannot."""

    applied: int
    total: int
    ms: float
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.total:
            return "live; no worker is running"
        time_taken = f" in {self.ms:.0f} ms" if self.applied else ""
        return f"applied on {self.applied}/{self.total} workers{time_taken}"


def wait_applied(number: int, timeout_s: float = 5.0) -> AppliedReport:
    """Returns when every live worker serves the version (or a newer one), has failed to, or time is up."""
    deadline_s = time.monotonic() + timeout_s
    published = ConfigVersion.objects.values_list("created_at", flat=True).get(number=number)
    while True:
        workers = list(selectors.workers())
        applied = [worker for worker in workers if worker.version >= number]
        failed = [worker for worker in workers if worker.version < number and worker.error]
        if len(applied) + len(failed) == len(workers) or time.monotonic() >= deadline_s:
            delays_ms = [(worker.applied_at - published).total_seconds() * 1000 for worker in applied]
            errors = [f"{worker}: {worker.error}" for worker in failed]
            return AppliedReport(len(applied), len(workers), max(0.0, *delays_ms, 0.0), errors)
        time.sleep(0.02)


def _lock() -> None:
    """Held until the transaction ends; taking it again inside is free."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
