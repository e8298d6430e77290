"""Texts that are stored with a job: long ones are cut, and characters that UTF-8 cannot hold are escaped."""


def cut(text: str, limit: int) -> str:
    """The text; where it is longer than `limit`, its middle is replaced by a note.

    Args:
        text: the text.
        limit: the most characters that are kept of it.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
