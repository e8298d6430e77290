"""The embedded server: a Valkey on a Unix socket under `.aioq/`, started and stopped by its users."""

from aioq.embedded.server import EmbeddedServer, attach, available

__all__ = ["EmbeddedServer", "attach", "available"]
