"""Which account the servers run as, and what it can reach.

An ordinary user runs them as themselves. PostgreSQL refuses uid 0, so root lends them an account that
exists already and never creates one:

1. whoever owns the data of an earlier start: data cannot change hands, so neither can its account;
2. `postgres`, made for exactly this by the distribution's package;
3. `nobody`, which every system has. It may be shared with other daemons, and those could then open our
   files: a machine where that matters should have a `postgres` account, or not run the gateway as root.
"""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from gateway.embedded.errors import PlaceUnusable


class Identity(TypedDict, total=False):
    """Keyword arguments of `subprocess.Popen`."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    uid: int
    gid: int

    @property
    def lent(self) -> bool:
        """Whether we are root and this is somebody else, so processes and files must be handed over."""
        return os.geteuid() != self.uid

    @property
    def identity(self) -> Identity:
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.lent else {}

    def directory(self, path: Path, mode: int = 0o700) -> None:
        """Makes `path` and hands it over. One that exists already keeps its owner and mode."""
        try:
            path.mkdir()
        except FileExistsError:
            return
        path.chmod(mode)  # mkdir's own mode is cut by the umask
        self.give(path)

    def give(self, path: Path) -> None:
        if self.lent:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def can_enter(self, directory: Path) -> bool:
        return self._test("-x", directory)

    def can_run(self, program: Path) -> bool:
        return self._test("-x", program)

    def can_read(self, file: Path) -> bool:
        return self._test("-r", file)

    def _test(self, flag: str, path: Path) -> bool:
        # Asked of the kernel, as the account: mode bits alone know nothing of ACLs, noexec or namespaces.
        command = ["/bin/sh", "-c", f'test {flag} "$0"', str(path)]
        return subprocess.run(command, cwd="/", check=False, **self.identity).returncode == 0


def choose(*data: Path) -> Account:
    """The account for data that lies, or will lie, in these directories."""
    uid = os.geteuid()
    if uid != 0:
        return Account(_name(uid), uid, os.getegid())
    for owner in (directory.stat() for directory in data if directory.exists()):
        if owner.st_uid != 0:
            return Account(_name(owner.st_uid), owner.st_uid, owner.st_gid)
    return _unprivileged()


def _unprivileged() -> Account:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise PlaceUnusable(
        "PostgreSQL does not run as root, and this system has neither a `postgres` nor a `nobody` account. "
        "Start the gateway as an ordinary user, or set DATABASE_URL and REDIS_URL."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # usual in containers that run as an arbitrary number
        return str(uid)
