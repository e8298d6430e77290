"""`aioq demo`: an embedded server, a worker process, and jobs of every kind.

Imports the single modules of `cli`, `cli/worker`, `app`, `tasks`, `results`, `jobs`, `config`, `embedded`,
`util` and `errors`.
"""
