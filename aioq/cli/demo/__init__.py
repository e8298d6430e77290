"""`aioq demo`: an embedded server, a worker process, and jobs of every kind."""
