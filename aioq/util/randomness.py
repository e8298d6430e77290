"""The source of what is drawn by chance, such as pauses between attempts.

It is the operating system's and not that of the module `random`. So a program that has seeded `random`, for its
tests or for a simulation, gets the same sequence whatever aioq does meanwhile in this thread or another, and a
forked process does not draw what its parent draws.
"""

import random

RANDOM = random.SystemRandom()
