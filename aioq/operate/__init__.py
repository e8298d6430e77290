"""What operators do at run time: find jobs and act on them, look at queues and change them.

`jobs` is what `app.jobs(...)` gives. `filters` and `arguments` decide which jobs match, `listing` reads the lists
of several queues and states as one, `cursor` says where a page ends. `copies` makes a call with other arguments.
`queues` is the handle of one queue, which `App.queue` returns. `actions` are the bulk operations of a query,
`plan` is what one is to do, `carrying` does it, and `operations` has their handles and `app.operations`.
"""
