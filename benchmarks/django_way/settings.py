from __future__ import annotations

import os

UPSTREAM = os.environ["BENCHMARK_UPSTREAM"]
SECRET_KEY = "only for measurements"  # noqa: S105
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.django_way.urls"
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
DATA_UPLOAD_MAX_MEMORY_SIZE = None
USE_TZ = True
