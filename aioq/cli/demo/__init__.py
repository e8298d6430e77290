"""`aioq demo`: an embedded server, a worker that dies and one that goes on."""
