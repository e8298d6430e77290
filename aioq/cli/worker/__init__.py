"""`aioq worker`: the command, the supervisor of several processes, signals, the health port."""
