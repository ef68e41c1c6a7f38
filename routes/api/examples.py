"""Bodies shown in the schema. Each works as it stands."""

UPSTREAM = {
    "name": "users",
    "balancing": "least-connections",
    "targets": [{"host": "10.0.0.1", "port": 8000}, {"host": "10.0.0.2", "port": 8000, "weight": 50}],
}
TARGET = {"host": "10.0.0.3", "port": 8000, "weight": 100}
ROUTE = {
    "name": "users",
    "paths": ["/users/*"],
    "methods": ["GET", "POST"],
    "upstreams": [{"name": "users", "weight": 100}],
}
SETTING = {"name": "rate-limiting", "route": "users", "config": {"minute": 100}}
ROUTE_WHOLE = {
    "name": "example-api",
    "path": "/api/v1/*",
    "methods": ["GET", "POST"],
    "targets": [{"url": "http://localhost:3000", "weight": 100}],
    "auth": {"type": "key"},
    "rate_limit": {"requests": 1000, "window": "1m"},
}
BULK = {
    "comment": "Users move to their own upstream.",
    "operations": [
        {"op": "create", "resource": "upstreams", "value": UPSTREAM},
        {"op": "create", "resource": "routes", "value": ROUTE},
        {"op": "create", "resource": "plugin-settings", "value": SETTING},
    ],
}
EXPLAIN = {"method": "GET", "host": "api.example.com", "path": "/users/5?fields=name"}

PURGE = {"tags": ["product-5"], "prefixes": ["https://shop.example.com/products/"], "route": "shop"}
