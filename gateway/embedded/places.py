"""Where everything of one instance lies, computed from its data directory alone.

    <data dir>/
      lock                  held by the process that runs the servers
      secrets/              0700, ours: passwords and keys, 0600 each
      servers/              a directory, or a link to one in /var/lib/hydragate (see `settle`)
        lock                the same lock for whoever comes through another link
        postgres/ valkey/   the servers' data, owned by their account
        sockets/            0700, theirs: nobody else on the machine can connect
        logs/               postgres.log, valkey.log
        programs/           copies of the binaries, if the account cannot reach the originals

Any process can therefore compute the URLs of the running instance (`at(data_dir).database_url`) without
being told anything. Only the password has to exist, which it does from the first start on.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from gateway.embedded.account import Account
from gateway.embedded.errors import NotStarted, PlaceUnusable

ELSEWHERE = Path("/var/lib/hydragate")
POSTGRES_PORT = 5432  # of no network: it only names the socket file
SOCKET_PATH_MAX_BYTES = 100  # sun_path holds 104 bytes on BSD and macOS, 108 on Linux, with a NUL


@dataclass(frozen=True, slots=True)
class Places:
    data_dir: Path
    servers: Path  # resolved: never a link

    @property
    def secrets(self) -> Path:
        return self.data_dir / "secrets"

    @property
    def postgres(self) -> Path:
        return self.servers / "postgres"

    @property
    def valkey(self) -> Path:
        return self.servers / "valkey"

    @property
    def logs(self) -> Path:
        return self.servers / "logs"

    @property
    def programs(self) -> Path:
        return self.servers / "programs"

    @property
    def sockets(self) -> Path:
        """Beside the data, or under /tmp when that path cannot be a socket's address."""
        beside = self.servers / "sockets"
        if _is_address(beside):
            return beside
        digest = hashlib.sha256(os.fsencode(self.servers)).hexdigest()[:12]
        owner = self.servers.stat().st_uid if self.servers.exists() else os.geteuid()
        return Path(f"/tmp/hydragate-{owner}-{digest}")  # made 0700, its owner is checked

    @property
    def postgres_socket(self) -> Path:
        return self.sockets / f".s.PGSQL.{POSTGRES_PORT}"

    @property
    def valkey_socket(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def database(self) -> dict[str, str]:
        """For Django's DATABASES. Raises NotStarted before the first start."""
        return {
            "NAME": "hydragate",
            "USER": "hydragate",
            "PASSWORD": self.secret("postgres_password"),
            "HOST": str(self.sockets),
            "PORT": str(POSTGRES_PORT),  # said aloud, or PGPORT of some shell decides
        }

    @property
    def database_url(self) -> str:
        """For libpq and psycopg. Raises NotStarted before the first start."""
        part = {name: quote(value, safe="") for name, value in self.database.items()}
        where = f"host={part['HOST']}&port={part['PORT']}"
        return f"postgres://{part['USER']}:{part['PASSWORD']}@/{part['NAME']}?{where}"

    @property
    def redis_url(self) -> str:
        return f"unix://{quote(str(self.valkey_socket))}?db=0"

    def secret(self, name: str) -> str:
        try:
            return (self.secrets / name).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            raise NotStarted(f"Nothing was started in {self.data_dir} yet: `manage.py up` does.") from None
        except PermissionError:
            raise PlaceUnusable(f"{self.secrets} belongs to another account; ask as that one.") from None

    def secret_write(self, name: str, value: str) -> None:
        """Readable by us alone. The directory exists from the first start on."""
        write(self.secrets / name, value + "\n", 0o600)


def at(data_dir: Path) -> Places:
    data_dir = data_dir.absolute()
    return Places(data_dir.resolve(), (data_dir / "servers").resolve())


def write(path: Path, text: str, mode: int) -> None:
    """Writes it whole or not at all, and never through a link that somebody laid there."""
    handle, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(handle, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(fresh).replace(path)


def settle(data_dir: Path, account: Account, say: Callable[[str], None]) -> Places:
    """Makes every directory of the instance that is missing. The caller holds the data directory's lock.

    The servers' part lies in the data directory where that is possible. It is not when we are root and
    the account cannot get there (a checkout below a 0700 home), or when sockets there could not be
    addressed: then it lies in /var/lib/hydragate, and `<data dir>/servers` links to it. The link makes the
    choice last, whatever happens to the modes of the directories above, and moves with the data directory.
    """
    link = data_dir / "servers"
    if link.is_symlink() and not link.exists():
        raise PlaceUnusable(
            f"{link} points to {link.readlink()}, which is gone, and the database with it. "
            "Bring it back, or delete the link to start with an empty one."
        )
    if not link.exists():
        _make_servers(link, account, say)
    places = at(data_dir)
    if account.lent and not account.can_enter(places.servers):
        raise PlaceUnusable(
            f"The account {account.name} can no longer enter {places.servers}. Open the way to it "
            f"(chmod o+x on the directory that closes it), or move it to {ELSEWHERE} and link to it."
        )
    places.secrets.mkdir(mode=0o700, exist_ok=True)
    places.logs.mkdir(mode=0o700, exist_ok=True)
    account.directory(places.sockets)
    _check_ours(places.sockets, account)
    return places


def _make_servers(link: Path, account: Account, say: Callable[[str], None]) -> None:
    if not account.lent or (account.can_enter(link.parent) and _is_address(link / "sockets")):
        link.mkdir()
        link.chmod(0o711 if account.lent else 0o700)
        return
    if not ELSEWHERE.exists():
        ELSEWHERE.mkdir(parents=True)
        ELSEWHERE.chmod(0o711)
    servers = Path(tempfile.mkdtemp(dir=ELSEWHERE, prefix="instance-"))
    servers.chmod(0o711)
    link.symlink_to(servers)
    say(f"the account {account.name} cannot use sockets in {link.parent}: databases go to {servers}")


def _is_address(sockets: Path) -> bool:
    """Short enough, and without what libpq takes for a list of hosts."""
    longest = os.fsencode(sockets / f".s.PGSQL.{POSTGRES_PORT}")
    return len(longest) <= SOCKET_PATH_MAX_BYTES and not set(b',"') & set(longest)


def _check_ours(sockets: Path, account: Account) -> None:
    # In /tmp anybody may have made the directory, or a link in its place, before us.
    found = sockets.lstat()
    if sockets.is_symlink() or found.st_uid != account.uid or found.st_mode & 0o077:
        raise PlaceUnusable(
            f"{sockets} must be a directory of {account.name} alone (mode 0700), and is not. "
            "If you do not know who made it, look before you delete it."
        )
