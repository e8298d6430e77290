import time

from proj.app import app


@app.task
def add(x: int, y: int) -> int:
    time.sleep(2)  # a plain function runs in a thread, so this does not hold up other jobs
    return x + y
