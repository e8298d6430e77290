"""Counts in words: `1 job`, `2 jobs`."""


def counted(count: int, noun: str, verb: str = "") -> str:
    """A count with its noun, and with a verb that agrees: `counted(1, "job", "waits/wait")` is `1 job waits`.

    Args:
        count: how many.
        noun: one of them; the plural takes an s.
        verb: the form for one, and after a slash that for any other number.
    """
    one, _, many = verb.partition("/")
    words = f"{count} {noun}" if count == 1 else f"{count} {noun}s"
    return f"{words} {one if count == 1 else many}" if verb else words
