"""The embedded server: Valkey on a Unix socket under `.aioq/`; see `launcher`."""

from aioq.embedded.server import EmbeddedServer, attach, available

__all__ = ["EmbeddedServer", "attach", "available"]
