"""The admin API of the configuration: `urlpatterns` go under `/admin/v1/`."""
