"""What operators do at run time: find jobs and act on them, look at queues and workers, and change them.

Jobs: `jobs` is what `app.jobs(...)` gives. `filters` and `arguments` decide which jobs match, `listing` reads
the lists of several queues and states as one, `ended` those out of the history, `known` says which queues there
are, `cursor` where a page ends. `copies` makes a call with other arguments. `actions` are the bulk operations of
a query, `plan` is what one is to do, `carrying` does it, and `operations` has their handles and
`app.operations`.

Queues: `queues` is the handle of one queue, which `App.queue` returns. `queue_control` pauses, resumes and
purges it, with what is in `pauses` and `purge`; `shard_changes` carries on changes of its shards. `queue_tasks`
are its tasks, `statistics` what its `stats()` shows. `overview` is what a live view reads of all queues, `unique`
what `app.unique` asks them; `limits` is `app.limits`, and `limit_info` what that shows.

Workers: `workers` is what `app.workers(...)` gives, `worker` one of them, `registered` what the server knows of
them. `events` is what `app.events(...)` gives, `changes` which of workers and pauses are news there.

Imports `worker`, `schedules`, `tasks`, `producer`, `results`, `store`, `wire`, `jobs`, `config`, `util`,
`errors` and `public`.
"""
