from __future__ import annotations

import httpx
from django.http import HttpRequest, HttpResponse
from django.urls import re_path

from benchmarks.django_way.settings import UPSTREAM

client = httpx.AsyncClient(base_url=UPSTREAM, timeout=30)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "content-length", "content-encoding"}


async def forward(request: HttpRequest) -> HttpResponse:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    method, target = request.method or "GET", request.get_full_path()
    answer = await client.request(method, target, headers=headers, content=request.body)
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
    return HttpResponse(answer.content, status=answer.status_code, headers=kept)


urlpatterns = [re_path("", forward)]
