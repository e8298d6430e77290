"""What forks that are measured have from `tests/forked.py`, so that each of them need not find it out.

That saves a tenth of a second for each command that a test runs.
"""

import inspect
from pathlib import Path

import aioq
from tests import branches

inspect.stack()  # keeps which module is of which file; coverage notes the stack that has started it
for file in Path(aioq.__file__).parent.rglob("*.py") if branches.IS_NEEDED else ():
    branches.lines_of_statements(str(file))
