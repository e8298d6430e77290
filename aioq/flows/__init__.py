"""Flows: jobs that depend on each other, as a graph that is stored whole in one queue, its home.

`ids` and `graph` are the format of what is stored, `memo` what one step notes for the next. A step is decided by
plain functions: `plan` goes through the list of work, `walk` goes on from nodes that have ended, `passes` goes
through all nodes; `rules` says what becomes of a node, `layout` which nodes there are, `state` what has become of
them, `release` makes their jobs, `inputs` their arguments, `graft_offers` takes in what they add, `ends` says how
the flow ends. `stepping` reads and writes.

Users build a flow with `flow`, `chain` and `grafts` (what a job adds to its flow). `building` keeps the nodes,
`node` says what one is, `steps` what can be added, `options` with which options, `checks` what cannot be.
`sending` stores it, with calls that `encoding` encodes. `handle` and `node_handle` are what users hold of it,
`reading` reads it for them, `views` says what they see, `results` what they get, and `queries` finds flows.

Imports `producer`, `results`, `store`, `wire`, `jobs`, `util`, `errors` and `public`.
"""

from aioq.flows.ends import read_flow_failed as read_flow_failed
from aioq.flows.graph import encode_head as encode_head
from aioq.flows.graph import encode_parts as encode_parts
from aioq.flows.ids import flow_of as flow_of
from aioq.flows.stepping import advance as advance
