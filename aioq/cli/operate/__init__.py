"""The commands of those who operate queues: they look at jobs, queues and workers, and change them.

`commands` declares them with their options and imports little else, so that `aioq --help` stays quick. Each
command imports its own module, which prints through `output`.

Imports the single modules of `cli`, `app`, `operate`, `worker`, `flows`, `results`, `limiters`, `store`, `jobs`,
`util` and `errors`.
"""
