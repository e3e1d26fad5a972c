"""Phrases, copied runs and variety, counted by hand."""

import pytest

from selfdistill.stats.texts import copied_share, distinct_n, speaks_of_example


@pytest.mark.parametrize(
    "text",
    [
        "Based on the example, I call the tool.",
        "As in the example above, Action: search",
        "Following the examples, here is mine.",
        "The provided response uses JSON.",
        "BASED ON THE EXAMPLE",
    ],
)
def test_phrases_that_only_the_teachers_prompt_explains(text):
    assert speaks_of_example(text)


@pytest.mark.parametrize("text", ["For example, 3 + 4 = 7.", "Here is an example of a haiku.", "The answer is B.", ""])
def test_ordinary_text_is_no_leak(text):
    assert not speaks_of_example(text)


@pytest.mark.parametrize(
    ("completion", "demonstration", "share"),
    [
        ("abcd", "xxabcdyy", 1.0),
        ("abcdef", "zcdez", 3 / 6),  # cde
        ("aXbXc", "abc", 1 / 5),
        ("abab", "ba", 2 / 4),
        ("abc", "", 0.0),
        ("", "abc", 0.0),
        ("xyz", "abc", 0.0),
        ("xxab then abcde", "abcde", 5 / 15),  # a longer run that starts later
    ],
)
def test_longest_common_run(completion, demonstration, share):
    assert copied_share(completion, demonstration) == pytest.approx(share)


def test_distinct_pairs_over_all_texts():
    # a b, b a, a b | a b, b c: 5 pairs, of which a b, b a, b c differ
    assert distinct_n(["a b a b", "a b c"], 2) == pytest.approx(3 / 5)
    assert distinct_n(["a b a b", "a b c"], 1) == pytest.approx(3 / 7)
    assert distinct_n(["one", ""], 2) == 0
