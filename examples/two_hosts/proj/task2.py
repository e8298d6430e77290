import time

from proj.app import app


@app.task
def multiply(x: int, y: int) -> int:
    time.sleep(2)
    return x * y
