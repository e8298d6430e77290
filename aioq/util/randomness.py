"""The random source of aioq, for example for pauses between attempts.

It is the operating system's source and not the module `random`. So a program that has seeded `random` for its
tests or a simulation gets its own sequence. And a forked process does not repeat its parent's numbers.
"""

import random

RANDOM = random.SystemRandom()
