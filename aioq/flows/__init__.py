"""Flows: jobs that depend on each other, as a graph that is stored whole in one queue, its home.

`ids` and `graph` are the format of what is stored.

Imports `wire`, `jobs` and `errors`.
"""

from aioq.flows.graph import ELEMENT as ELEMENT
from aioq.flows.graph import INPUT as INPUT
from aioq.flows.graph import PART as PART
from aioq.flows.graph import Kind as Kind
from aioq.flows.graph import decode_head as decode_head
from aioq.flows.graph import decode_part as decode_part
from aioq.flows.graph import encode_head as encode_head
from aioq.flows.graph import encode_parts as encode_parts
from aioq.flows.ids import flow_of as flow_of
from aioq.flows.ids import node_id as node_id
