"""`aioq top`: a full-screen view of an App's queues, jobs and workers, by the library textual.

What is shown is worked out by pure modules: `rates`, `board` (what was read, and what is read next), `rows`,
`filter` and `story`. `reader` reads, and `actions` changes jobs and queues. `ui`, `job_screen` and `widgets` are
what is on the screen; `command` imports them last, for only they need textual.

Imports the single modules of `cli`, `cli/operate`, `app`, `operate`, `worker`, `results`, `store`, `jobs`,
`util` and `errors`.
"""
