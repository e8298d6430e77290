"""What is wrong with a pattern."""

from fnmatch import fnmatchcase

from aioq.util.patterns import pattern_objection


def test_what_a_pattern_may_be() -> None:
    for pattern, text in (("shop.*", "shop.add"), ("[ab]?", "ax"), ("[!a]", "b"), ("[[]", "["), ("a-z]", "a-z]")):
        assert pattern_objection(pattern) is None, pattern
        assert fnmatchcase(text, pattern), pattern


def test_a_class_that_is_never_closed_and_a_range_of_nothing_are_named() -> None:
    for pattern in ("[", "a[b", "[!a", "a[!]", "[]"):
        assert pattern_objection(pattern) == "a '[' is never closed; the character itself is '[[]'", pattern
    assert pattern_objection("a[z-a]") == "nothing is from 'z' to 'a'; swap them"
