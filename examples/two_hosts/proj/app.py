"""The App: `aioq worker proj.app:app` runs its jobs, `from proj.app import app` sends them."""

from aioq import App

app = App.from_config("proj.config")
