"""Texts that are stored beside a job: cut to what a person reads, and to what UTF-8 can hold."""


def cut(text: str, limit: int) -> str:
    """The text, of which the ends are kept where it is longer than `limit`; a note says what is left out.

    Args:
        text: any.
        limit: how many characters are kept at the most.
    """
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n... {len(text) - limit} characters left out ...\n{text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()
