"""Answers about usage, as the schema shows them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample

_RANGE = {"since": "2026-11-22T12:00:00Z", "until": "2026-11-22T13:00:00Z"}
_TIMES = {"mean": 21.4, "p50": 17.9, "p90": 41.2, "p95": 58.0, "p99": 132.6}
_COUNTS = {"requests": 7200, "client_errors": 36, "server_errors": 4, "bytes_in": 120_400, "bytes_out": 9_830_112}

SUMMARY: dict[str, Any] = {
    **_RANGE,
    **_COUNTS,
    "requests_per_s": 2.0,
    "rate_limited": 30,
    "retried": 2,
    "cache_hits": 0,
    "by_status_class": {"2xx": 7160, "4xx": 36, "5xx": 4},
    "by_outcome": {"ok": 7164, "rate_limited": 30, "key_missing": 6},
    "duration_ms": _TIMES,
    "gateway_ms": {"mean": 0.4, "p50": 0.3, "p90": 0.6, "p95": 0.8, "p99": 1.9},
    "upstream_ms": _TIMES,
}
SERIES: dict[str, Any] = {
    **_RANGE,
    "step_s": 60,
    "points": [
        {
            "start": "2026-11-22T12:00:00Z",
            "requests": 118,
            "client_errors": 1,
            "server_errors": 0,
            "rate_limited": 1,
            "by_status_class": {"2xx": 117, "4xx": 1},
            "p50_ms": 17.9,
            "p95_ms": 58.0,
            "p99_ms": 120.1,
        }
    ],
}
TOP: dict[str, Any] = {**_RANGE, "by": "routes", "items": [{"id": 3, "name": "orders", **_COUNTS}]}
ROWS: dict[str, Any] = {
    "items": [
        {
            "id": 81_204,
            "at": "2026-11-22T12:41:35.120000Z",
            "request_id": "9f8660999c8c931280920375793a935a",
            "explanation": "Key hg_live_3f9aB… allows 100 per 60 s; this would have been number 101; "
            "room again at 12:41:42 UTC.",
            "method": "GET",
            "host": "api.example.com",
            "path": "/orders/1",
            "status": 429,
            "outcome": "rate_limited",
            "detail": "rate-limiting: key:12 is over 100 per 60 s (sliding-window), room again in 7 s",
            "client_ip": "192.0.2.1",
            "route_id": 3,
            "route": "orders",
            "upstream_id": None,
            "upstream": None,
            "target": "",
            "consumer_id": 6,
            "consumer": "bob",
            "key_id": 12,
            "key": "hg_live_3f9aB",
            "duration_ms": 0.8,
            "gateway_ms": 0.8,
            "upstream_ms": None,
            "bytes_in": 0,
            "bytes_out": 312,
            "tries": 0,
            "cache_status": "",
            "config_version": 14,
            "node": "gw-1",
            "worker": "w1",
        }
    ],
    "next": "https://gateway.example.com/admin/v1/usage/rows?outcome=rate_limited&cursor=1795351295120000-81204",
    "searched_to": None,
}
TRACE: dict[str, Any] = {
    "id": "0b6f2a40a1ab6b8f2d5f3b1f1f2f9c7e",
    "running": False,
    "items": [
        {
            "request_id": "9f8660999c8c931280920375793a935a",
            "at": "2026-11-22T12:02:35.120000Z",
            "node": "gw-1",
            "worker": 1,
            "method": "GET",
            "host": "api.example.com",
            "path": "/users/5",
            "route_id": 3,
            "route": "users",
            "upstream": "users",
            "target": "10.0.0.1:80",
            "consumer": "bob",
            "status": 200,
            "outcome": "ok",
            "detail": "",
            "duration_ms": 12.4,
            "gateway_ms": 0.9,
            "upstream_ms": 11.2,
            "steps": [
                {"plugin": "key-auth", "setting": 4, "phase": "access", "result": "passed", "us": 6.1},
                {"plugin": "rate-limiting", "setting": 9, "phase": "access", "result": "passed", "us": 412.7},
                {"plugin": "rate-limiting", "setting": 9, "phase": "response", "result": "passed", "us": 3.0},
            ],
        }
    ],
    "silent": [],
}
WEBSOCKETS: dict[str, Any] = {
    "items": [
        {
            "id": "9f8660999c8c931280920375793a935a",
            "node": "gw-1",
            "worker": 1,
            "route_id": 3,
            "route": "chat",
            "consumer_id": 6,
            "consumer": "bob",
            "client_ip": "192.0.2.1",
            "host": "api.example.com",
            "path": "/chat",
            "upstream_id": 7,
            "upstream": "chat",
            "target": "10.0.0.1:80",
            "opened_at": "2026-11-22T12:02:35.120000Z",
            "last_message_at": "2026-11-22T12:41:33.040000Z",
            "messages_in": 12,
            "messages_out": 340,
            "bytes_in": 1_204,
            "bytes_out": 98_301,
        }
    ],
    "next": None,
    "count": 1,
    "silent": [],
}
STATUS: dict[str, Any] = {
    "version": {"number": 14, "digest": "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"},
    "workers": [
        {
            "node": "gw-1",
            "worker": 1,
            "pid": 4711,
            "role": "proxy",
            "version": 14,
            "current": True,
            "applied_at": "2026-11-22T12:40:00.080000Z",
            "apply_ms": 12.4,
            "seen_at": "2026-11-22T12:41:34Z",
            "error": "",
        }
    ],
    "degraded": [{"part": "redis", "detail": "Redis does not answer: limits go by their `on_error` …"}],
    "window_s": 900,
    "upstreams": [
        {
            "id": 7,
            "name": "shop",
            "balancing": "round-robin",
            "guard": {"circuit": "closed", "workers": 2, "workers_open": 0, "under_way": 3, "waiting": 0},
            "requests": 1800,
            "server_errors": 4,
            "error_share": 0.0022,
            "targets": [
                {
                    "id": 1,
                    "address": "10.0.0.1:80",
                    "weight": 100,
                    "enabled": True,
                    "state": "down",
                    "since": "2026-11-22T12:41:12.310000Z",
                    "nodes": 2,
                    "nodes_agreeing": 1,
                    "failures": 0,
                    "fault": "",
                    "in_flight": 1,
                    "latency_ms": 17.4,
                    "probe": {
                        "at": "2026-11-22T12:41:32.310000Z",
                        "fault": "Status 500.",
                        "took_ms": 3.1,
                        "streak": 0,
                    },
                }
            ],
        }
    ],
}


def answer(name: str, value: dict[str, Any]) -> OpenApiExample:
    return OpenApiExample(name, value, response_only=True)
