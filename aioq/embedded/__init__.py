"""The embedded server: a Valkey on a Unix socket under `.aioq/`, started and stopped by its users.

`server` starts and attaches, `directory` is where its files are. Imports `util` and `errors`.
"""

from aioq.embedded.server import EmbeddedServer, attach, available

__all__ = ["EmbeddedServer", "attach", "available"]
