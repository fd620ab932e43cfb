"""Options that are the keyword-only arguments of functions and constructors."""

import pytest

from fastgan._util.keyword_options import check_options, option_types, option_value, parse_option
from fastgan.errors import UsageError


def function(a, *, width: int = 8, name: str | None = None):
    pass


class Base:
    def __init__(self, network, *, crop: int = 0, weight: float = 1.0):
        pass


class Middle(Base):
    pass


class Derived(Middle):
    def __init__(self, *args, flip: bool = True, crop: int = 128, **rest):
        super().__init__(*args, crop=crop, **rest)


def test_options_of_a_function_and_of_all_constructors_of_a_class():
    assert option_types(function) == {"width": int, "name": str | None}
    assert option_types(Middle) == {"crop": int, "weight": float}
    assert option_types(Derived) == {"crop": int, "weight": float, "flip": bool}


@pytest.mark.parametrize(
    ("owner", "given", "name", "value"),
    [
        (Base, {}, "crop", 0),
        (Derived, {}, "crop", 128),
        (Derived, {"crop": 64}, "crop", 64),
        (Derived, {}, "weight", 1.0),
        (function, {}, "height", None),
    ],
)
def test_the_value_of_an_option_is_the_given_one_or_its_default(owner, given, name, value):
    assert option_value(owner, given, name) == value


def test_an_unknown_option_and_a_wrong_type_are_named():
    with pytest.raises(
        UsageError, match=r"crob: the task has the options crop, weight, got crob='7'; did you mean 'cr"
    ):
        parse_option("the task", option_types(Base), "crob", "7")
    with pytest.raises(UsageError, match="crop: the task expects int, got 'x'"):
        parse_option("the task", option_types(Base), "crop", "x")
    with pytest.raises(UsageError, match=r"crop: the task expects int, got 1\.5"):
        check_options("the task", option_types(Base), {"crop": 1.5})
    assert parse_option("the task", option_types(Base), "weight", "2") == 2.0
