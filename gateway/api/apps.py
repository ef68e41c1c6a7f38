from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "gateway.api"
    label = "api"
    verbose_name = "Admin API"

    def ready(self) -> None:
        from gateway.api import schema  # noqa: F401 - spectacular finds extensions by their import
