"""A reverse proxy of fastapi-proxy-lib, made as its documentation says."""

from __future__ import annotations

import os

from fastapi_proxy_lib.fastapi.app import reverse_http_app  # type: ignore[import-not-found]  # in a directory of its own

app = reverse_http_app(base_url=f"{os.environ['BENCHMARK_UPSTREAM']}/")
