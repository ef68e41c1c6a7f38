"""Django's settings, derived from `gateway.environment`. Nothing here is read from anywhere else."""

from __future__ import annotations

import sys
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from gateway import environment, theme
from gateway.embedded import EmbeddedError, NotStarted, places

ENVIRONMENT = environment.load()
PLACES = places.at(ENVIRONMENT.data_dir)
BASE_DIR = environment.ROOT
PROXY_ONLY = ENVIRONMENT.role == "proxy"


def _database(url: str) -> dict[str, Any]:
    if not url:
        try:
            return {"ENGINE": "django.db.backends.postgresql", **PLACES.database}
        except NotStarted:  # `manage.py up` makes it; what needs no database (help, mypy) works before that
            return {"ENGINE": "django.db.backends.postgresql", "NAME": "hydragate", "HOST": str(PLACES.sockets)}
        except EmbeddedError as error:
            raise environment.BadEnvironment(str(error)) from None
    parts: dict[str, Any] = conninfo_to_dict(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", ""),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": parts.pop("port", ""),
        "OPTIONS": parts,
    }


def _secret_key() -> str:
    """The one from the environment, else the data directory's; "" makes Django refuse to sign anything."""
    try:
        return ENVIRONMENT.secret_key or PLACES.secret("secret-key")
    except NotStarted:
        return ""
    except EmbeddedError as error:
        raise environment.BadEnvironment(str(error)) from None


DEBUG = ENVIRONMENT.debug
SECRET_KEY = _secret_key()
SECRET_KEY_FALLBACKS = ENVIRONMENT.secret_key_fallbacks
ALLOWED_HOSTS = ENVIRONMENT.allowed_hosts
CSRF_TRUSTED_ORIGINS = ENVIRONMENT.csrf_trusted_origins
REDIS_URL = ENVIRONMENT.redis_url or PLACES.redis_url

_CONTROL_PLANE = [
    *("unfold", "unfold.contrib.filters", "django.contrib.admin", "django.contrib.messages"),
    *("django.contrib.staticfiles", "rest_framework", "drf_spectacular", "drf_spectacular_sidecar", "gateway.api"),
]
INSTALLED_APPS = [
    *(["daphne"] if "runserver" in sys.argv else []),  # development: Django's runserver over ASGI
    *([] if PROXY_ONLY or sys.argv[1:2] == ["recorder"] else _CONTROL_PLANE),
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.postgres",
    "gateway",
    "routes",
    "keys",
    "dashboard",
]
# Control plane only: traffic never passes here (gateway.handler), so sync middleware does no harm.
MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "dashboard.csp.ContentSecurityPolicy",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
ROOT_URLCONF = "gateway.urls"
ASGI_APPLICATION = "gateway.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# No persistent connections: each request of the control plane has a thread of its own, so its connection would be kept
# for nobody. What a worker asks for itself (gateway.database) keeps its threads, and with them its connections.
DATABASES = {"default": _database(ENVIRONMENT.database_url)}
# A server that vanishes without a word must not hold a thread for the kernel's two hours. Unix sockets ignore these.
_DEADLINES = {
    "connect_timeout": 5,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
DATABASES["default"]["OPTIONS"] = {**_DEADLINES, **DATABASES["default"].get("OPTIONS", {})}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "hg:django",
        # A control plane without Redis is slower, not broken.
        "OPTIONS": {"SOCKET_CONNECT_TIMEOUT": 0.5, "SOCKET_TIMEOUT": 0.5, "IGNORE_EXCEPTIONS": True},
    }
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "dashboard:overview"
SESSION_COOKIE_HTTPONLY = True
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
FORMAT_MODULE_PATH = "gateway.formats"  # a language's own formats come before DATETIME_FORMAT
STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True  # no collectstatic step: files are served from the installed packages

DATA_UPLOAD_MAX_MEMORY_SIZE = 16 << 20  # of one body: a configuration of ten thousand routes fits

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "keys.authentication.TokenAuthentication",
        "gateway.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["gateway.api.permissions.ScopeAndModel"],
    "DEFAULT_PARSER_CLASSES": ["gateway.api.formats.JsonParser"],
    "DEFAULT_RENDERER_CLASSES": ["gateway.api.formats.JsonRenderer"],
    "DEFAULT_SCHEMA_CLASS": "gateway.api.schema.AutoSchema",
    "EXCEPTION_HANDLER": "gateway.api.problems.handle",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "HydraGate admin API",
    "DESCRIPTION": "Upstreams, routes, plugins, consumers, keys, versions and usage. Guide: docs/api.md.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_PATCH": False,  # gateway.api.schema makes them
    "SCHEMA_PATH_PREFIX": "/admin/v1",
    "POSTPROCESSING_HOOKS": ["gateway.api.schema.complete"],
}

UNFOLD = theme.unfold(ENVIRONMENT)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": ENVIRONMENT.log_level.upper()},
    "loggers": {
        # One line per call of theirs would be one line per request of ours.
        name: {"level": "WARNING"}
        for name in ("httpx", "httpcore", "daphne", "django.channels.server", "asyncio")
    },
}
