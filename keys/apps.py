from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keys"
    verbose_name = "Consumers and keys"

    def ready(self) -> None:
        from keys import signals

        signals.connect()
