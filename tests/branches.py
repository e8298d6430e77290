"""Measure branches with `sys.monitoring` on Python 3.12 and 3.13 too: a plugin of coverage (pyproject.toml).

coverage itself does that from 3.14 on. Before, an event of a branch cannot be disabled for one of its two ways, so
coverage has all lines of all files traced instead, and the tests take more than twice the time of a core. Here the
event of a branch stays until both ways have been seen. What is measured is the same, as
`unit/harness/test_branches.py` shows, but that a branch which an exception goes through is not taken, as on 3.14.
"""

import dis
import functools
import os
import sys
import threading
from types import CodeType
from typing import Any

from coverage import bytecode, core, env, misc, sysmon

IS_NEEDED = (3, 12) <= sys.version_info < (3, 14)
"""Python has `sys.monitoring`, and coverage does not measure branches with it."""

lines_of_statements = functools.cache(sysmon.compute_multiline_map)
"""Which lines of a file belong to a statement that begins above them; read before a fork, it need not read it."""


class Branches(sysmon.SysMonitor):
    """coverage's own tracer, with one event for both ways of a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.renew_locks()
        self._first: dict[tuple[int, int], int] = {}
        os.register_at_fork(after_in_child=self.renew_locks)

    def start(self) -> None:
        """Begin to measure."""
        self.renew_locks()
        super().start()

    def renew_locks(self) -> None:
        """Have locks that a signal's handler may take once more, as coverage's own does for SIGTERM.

        Also after a fork, in which nobody would release a lock that another thread held.
        """
        self.lock: Any = threading.RLock()
        collector: Any = getattr(getattr(self, "lock_data", None), "__self__", None)  # none before it is begun
        if collector is not None:
            collector.data_lock = threading.RLock()

    # What began under another tracer of this process may go on under this one, which knows nothing of it.

    def sysmon_py_return(self, code: CodeType, instruction_offset: int, retval: object) -> Any:
        """Note a return."""
        return super().sysmon_py_return(code, instruction_offset, retval) if id(code) in self.code_infos else None

    def sysmon_line_arcs(self, code: CodeType, line_number: int) -> Any:
        """Note a line."""
        return super().sysmon_line_arcs(code, line_number) if id(code) in self.code_infos else None

    def sysmon_branch_either(self, code: CodeType, instruction_offset: int, destination_offset: int) -> Any:
        """Note which way a branch goes, until it has gone both."""
        if id(code) not in self.code_infos:
            return None
        branch = id(code), instruction_offset
        first = self._first.setdefault(branch, -1)
        if first == destination_offset:
            return None
        super().sysmon_branch_either(code, instruction_offset, destination_offset)
        if first >= 0:
            return sysmon.DISABLE
        self._first[branch] = destination_offset
        return None


_update = misc.Hasher.update


def update_by_text(self: misc.Hasher, v: object) -> None:
    """Put a set of pairs into a hash as one text, and all else as coverage itself does.

    It takes pairs number by number, for each process that it has measured: that takes longer than to write them.
    """
    _update(self, repr(sorted(v)) if isinstance(v, set) else v)


def coverage_init(_: object, __: object) -> None:
    """Have coverage take this tracer; called before it chooses one."""
    misc.Hasher.update = update_by_text
    chosen_from: Any = core
    if not IS_NEEDED or chosen_from.SysMonitor is Branches:
        return
    chosen_from.SysMonitor = Branches
    env.SYSMON_DEFAULT = env.PYBEHAVIOR.branch_right_left = True
    events: Any = getattr(sys, "monitoring").events  # noqa: B009 - 3.11, for which types are checked, has none
    events.BRANCH_LEFT = events.BRANCH_RIGHT = events.BRANCH  # the names that it registers
    sysmon.compute_multiline_map = lines_of_statements
    bytecode.RETURNS.add(dis.opmap["RETURN_CONST"])  # Python 3.14 has none
