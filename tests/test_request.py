"""A request's key follows from what makes its video what it is, and from nothing else."""

from hypothesis import given
from hypothesis import strategies as st

from kling_sweeps.experiment.request import GenerationRequest

ARGUMENTS = {"prompt": "a cat", "cfg_scale": 0.5}


def request(**changes):
    return GenerationRequest(
        **{"endpoint": "a/b", "arguments": ARGUMENTS, "sample": 0, "price_usd": 1.4, **changes}
    )


def test_equal_requests_have_equal_keys():
    """Does not care for the order of arguments, nor for the price."""
    turned = dict(reversed(ARGUMENTS.items()))
    assert request().key == request(arguments=turned, price_usd=None).key


def test_every_difference_makes_another_key():
    """Tells apart endpoints, arguments and samples."""
    keys = {
        request().key,
        request(endpoint="a/c").key,
        request(sample=1).key,
        request(arguments={**ARGUMENTS, "cfg_scale": 0.6}).key,
        request(arguments={**ARGUMENTS, "prompt": "a cat "}).key,
    }
    assert len(keys) == 5


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
def test_any_text_has_a_key(text):
    """Makes 64 hexadecimal digits of any text."""
    key = request(arguments={"prompt": text}).key
    assert len(key) == 64 and int(key, 16) >= 0
