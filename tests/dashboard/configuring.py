"""A small configuration with the real plugins, and whoever looks at it."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User

from keys.models import Consumer
from routes import portable, services
from routes.models import ConfigVersion

FILE = """\
format: 1
upstreams:
  - name: users
    tags: [team-a]
    targets:
      - {host: 10.0.0.1, port: 80, weight: 75}
      - {host: 10.0.0.2, port: 80, weight: 25}
      - {host: 10.0.0.3, port: 80, enabled: false}
  - name: users-next
    targets:
      - {host: 10.0.1.1, port: 8080}
routes:
  - name: users
    hosts: [api.example.com]
    paths: ["/users/{id}"]
    methods: [GET]
    tags: [public]
    upstreams:
      - {name: users, weight: 90}
      - {name: users-next, weight: 10}
  - name: orders
    paths: ["/orders/*"]
    priority: 5
    upstreams: [{name: users}]
plugins:
  - name: key-auth
    route: users
  - name: rate-limiting
    config: {minute: 100}
  - name: rate-limiting
    route: users
    config: {minute: 5}
  - name: rate-limiting
    route: users
    consumer: alice
    config: {minute: 50}
"""


def configured(file: str = FILE) -> ConfigVersion:
    Consumer.objects.get_or_create(username="alice")
    version = services.replace(portable.from_yaml(file), author="ann", source="import").version
    assert version is not None
    return version


def staff(*permissions: str) -> User:
    """Somebody with these permissions, `app.codename`."""
    user = User.objects.create_user("somebody", is_staff=True)
    for permission in permissions:
        app, codename = permission.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    return user
