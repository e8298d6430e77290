"""`aioq worker`: the command, the supervisor of several processes, signals, the health port.

Imports the single modules of `cli`, `app`, `worker`, `store`, `config`, `util` and `errors`.
"""
