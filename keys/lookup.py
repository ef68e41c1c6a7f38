"""The reads that workers live on, one statement each, with the moment they were made at (see gateway.proxy.found).

They are the bridge over the Django line: rows in, plain values out. Sync: the runtime calls them in a thread.
SQL and not the ORM, because a moment must come back from the very statement that reads, even if it finds nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import connection

from gateway.plugins.base import Refusal
from gateway.proxy.exchange import Consumer, Credential
from gateway.proxy.found import Changes, Found, Moment, Question

MAX_CHANGES = 20_000  # in one answer; more means `everything`
FIRST_LOOK = "1 hour"  # what a new worker is told: as long as any worker or Redis can remember an answer

FIND_KEY = """
SELECT pg_current_snapshot()::text, key.id, key.prefix, key.scopes, key.expires_at, key.revoked_at,
       consumer.id, consumer.username, consumer.custom_id, consumer.groups, consumer.enabled
FROM (SELECT %s::bytea AS digest) AS asked
LEFT JOIN keys_apikey AS key ON key.digest = asked.digest
LEFT JOIN keys_consumer AS consumer ON consumer.id = key.consumer_id
"""

# Exactly this name: another issuer may tell `Anna` from `anna`. `lower` is what the index is on.
FIND_CONSUMER = """
SELECT pg_current_snapshot()::text,
       consumer.id, consumer.username, consumer.custom_id, consumer.groups, consumer.enabled
FROM (SELECT %s::text AS value) AS asked
LEFT JOIN keys_consumer AS consumer ON """
CONSUMER_IS = {
    "username": "lower(consumer.username) = lower(asked.value) AND consumer.username = asked.value",
    "custom_id": "consumer.custom_id = asked.value AND consumer.custom_id <> ''",
}

FIND_LOGIN = """
SELECT pg_current_snapshot()::text, login.id, login.username, login.password,
       consumer.id, consumer.username, consumer.custom_id, consumer.groups, consumer.enabled
FROM (SELECT %s::text AS username) AS asked
LEFT JOIN keys_basiccredential AS login ON login.username = asked.username
LEFT JOIN keys_consumer AS consumer ON consumer.id = login.consumer_id
"""

# A change counts as new if its transaction could not be seen at the moment of the last look. Ids cannot decide that: a
# lower one may become visible after a higher one was read. The first condition lets the index do the work.
CHANGES_SINCE = """
SELECT pg_current_snapshot()::text, change.id, change.digest, change.consumer_id
FROM (SELECT %(since)s::pg_snapshot AS moment) AS since
LEFT JOIN keys_credentialchange AS change
  ON change.transaction >= pg_snapshot_xmin(since.moment)::text::bigint
     AND NOT pg_visible_in_snapshot(change.transaction::text::xid8, since.moment)
LIMIT %(limit)s
"""

CHANGES_FIRST = """
SELECT pg_current_snapshot()::text, change.id, change.digest, change.consumer_id
FROM (SELECT 1) AS one
LEFT JOIN keys_credentialchange AS change ON change.at > statement_timestamp() - %(first_look)s::interval
LIMIT %(limit)s
"""


def find_key(digest: bytes) -> Found:
    """Revocation outranks a disabled consumer, which outranks expiry; expiry is left to whoever uses the answer."""
    row = _rows(FIND_KEY, [digest])[0]
    moment, key_id, prefix, scopes, expires_at, revoked_at, consumer_id, username, custom_id, groups, enabled = row
    answer: Credential | Refusal
    if key_id is None:
        answer = Refusal("key_invalid")
    elif revoked_at is not None:
        answer = Refusal("key_revoked")
    elif not enabled:
        answer = Refusal("consumer_disabled")
    else:
        consumer = Consumer(consumer_id, username, custom_id, frozenset(groups))
        answer = Credential("key", key_id, prefix, consumer, frozenset(scopes), asked=digest)
    return Found(answer, consumer_id or 0, _epoch(expires_at), Moment.parse(moment))


def find_consumer(by: str, value: str) -> Found:
    """For whoever has proved to be this consumer in another way than by a key."""
    moment, consumer_id, username, custom_id, groups, enabled = _rows(FIND_CONSUMER + CONSUMER_IS[by], [value])[0]
    answer: Credential | Refusal
    if consumer_id is None:
        answer = Refusal("consumer_unknown")
    elif not enabled:
        answer = Refusal("consumer_disabled")
    else:
        consumer = Consumer(consumer_id, username, custom_id, frozenset(groups))
        answer = Credential("consumer", consumer_id, username, consumer, asked=f"{by}:{value}")
    return Found(answer, consumer_id or 0, None, Moment.parse(moment))


def find_login(name: str) -> Found:
    """Exactly this username. The password is for whoever asks to check."""
    row = _rows(FIND_LOGIN, [name])[0]
    moment, login_id, login, password, consumer_id, username, custom_id, groups, enabled = row
    answer: Credential | Refusal
    if login_id is None:
        answer = Refusal("consumer_unknown")
    elif not enabled:
        answer = Refusal("consumer_disabled", password)
    else:
        consumer = Consumer(consumer_id, username, custom_id, frozenset(groups))
        answer = Credential("basic", login_id, login, consumer, proof=password, asked=f"login:{name}")
    return Found(answer, consumer_id or 0, None, Moment.parse(moment))


def find(question: Question) -> Found:
    if isinstance(question, bytes):
        return find_key(question)
    by, _, value = question.partition(":")
    return find_login(value) if by == "login" else find_consumer(by, value)


def changes_since(cursor: Moment | None) -> tuple[Moment, Changes]:
    """The next cursor, and each change since this one exactly once. None: a worker's first look."""
    limit = MAX_CHANGES + 1
    if cursor is None:
        rows = _rows(CHANGES_FIRST, {"first_look": FIRST_LOOK, "limit": limit})
    else:
        rows = _rows(CHANGES_SINCE, {"since": cursor.text, "limit": limit})
    moment = Moment.parse(rows[0][0])
    changes = [(digest, consumer_id) for _, change_id, digest, consumer_id in rows if change_id is not None]
    digests = frozenset(bytes(digest) for digest, _ in changes if digest is not None)
    consumers = frozenset(consumer_id for _, consumer_id in changes if consumer_id is not None)
    went_back = cursor is not None and moment.xmax < cursor.xmax  # restored from a backup, or a replica took over
    everything = went_back or len(changes) > MAX_CHANGES or (None, None) in changes
    return moment, Changes(moment, digests, consumers, everything)


def _rows(sql: str, parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()
