"""Money is exact, has one spelling, and answers to no one's decimal context."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core import money
from engine.core.money import (
    ONE,
    PLACES,
    add,
    affordable,
    bps_of,
    ceil_to_step,
    div,
    exact,
    floor_to_step,
    is_exact,
    magnitude,
    mul,
    neg,
    percent_of,
    prorate,
    steps_in,
    sub,
)
from tests.support.decimal_contexts import HOSTILE
from tests.support.strategies import above_zero, amounts

any_number = st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**20), max_value=10**20)


@given(any_number)
def test_an_amount_is_rounded_half_even_to_twelve_decimals(value: Decimal) -> None:
    found = Fraction(exact(value)) * 10**PLACES
    assert found == round(Fraction(value) * 10**PLACES)


@given(any_number)
def test_an_amount_has_one_spelling(value: Decimal) -> None:
    found = exact(value)
    _, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)
    assert -PLACES <= exponent <= 0
    assert exponent == 0 or digits[-1] != 0
    assert not (found == 0 and found.is_signed())
    assert is_exact(found)
    assert exact(found).as_tuple() == found.as_tuple()
    assert exact(str(found)).as_tuple() == found.as_tuple()


@pytest.mark.parametrize(
    ("given_as", "spelled"),
    [("1.10", "1.1"), ("1E+3", "1000"), ("-0", "0"), ("0E-9", "0"), ("00012.500", "12.5"), (7, "7"), ("100", "100"),
     ("-0.0000000000001", "0"), ("0.0000000000005", "0"), ("0.0000000000015", "2E-12"), ("99.9999999999999", "100")],
)  # fmt: skip
def test_other_spellings_become_the_one(given_as: str | int, spelled: str) -> None:
    assert str(exact(given_as)) == spelled
    assert is_exact(exact(given_as))


@pytest.mark.parametrize("spelled", ["1.10", "1E+3", "-0", "0.00", "NaN", "Infinity", "0.0000000000001"])
def test_other_spellings_are_told_from_the_one(spelled: str) -> None:
    assert not is_exact(Decimal(spelled))


@pytest.mark.parametrize("text", ["NaN", "sNaN", "Infinity", "-Infinity", "", "ten", "1,5", "0x10", "--1", "1e9999999"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a"):
        exact(text)


@pytest.mark.parametrize("special", ["NaN", "sNaN", "Infinity"])
def test_a_decimal_that_is_no_number_is_refused_too(special: str) -> None:
    with pytest.raises(ValueError, match="is not a finite number"):
        exact(Decimal(special))


def test_thirty_digits_before_the_point_are_the_most() -> None:
    assert exact("9" * 30) == 10**30 - 1
    with pytest.raises(ValueError, match="at most 30 digits"):
        exact("1E30")
    with pytest.raises(ValueError, match="at most 30 digits"):
        mul(exact("1E20"), exact("1E20"))


def test_dividing_by_zero_is_an_error_and_no_infinity() -> None:
    with pytest.raises(ZeroDivisionError):
        div(Decimal(1), Decimal(0))


@given(amounts, amounts)
def test_sums_and_differences_are_exact(a: Decimal, b: Decimal) -> None:
    assert Fraction(add(a, b)) == Fraction(a) + Fraction(b)
    assert Fraction(sub(a, b)) == Fraction(a) - Fraction(b)
    assert add(a, neg(a)) == 0
    assert str(add(a, neg(a))) == "0"
    assert Fraction(magnitude(a)) == abs(Fraction(a))


@given(amounts, amounts, above_zero)
def test_products_and_quotients_are_rounded_once(a: Decimal, b: Decimal, whole: Decimal) -> None:
    def rounded(value: Fraction) -> Fraction:
        return Fraction(round(value * 10**PLACES), 10**PLACES)

    x, y = Fraction(a) / 10**6, Fraction(b) / 10**6
    small_a, small_b = div(a, Decimal(10**6)), div(b, Decimal(10**6))
    assert Fraction(small_a) == rounded(x)
    assert Fraction(small_b) == rounded(y)
    assert Fraction(mul(small_a, small_b)) == rounded(Fraction(small_a) * Fraction(small_b))
    assert Fraction(div(small_a, whole)) == rounded(Fraction(small_a) / Fraction(whole))
    assert Fraction(percent_of(small_a, small_b)) == rounded(Fraction(small_a) * Fraction(small_b) / 100)
    assert Fraction(bps_of(small_a, small_b)) == rounded(Fraction(small_a) * Fraction(small_b) / 10_000)
    assert Fraction(prorate(small_a, small_b, whole)) == rounded(
        Fraction(small_a) * Fraction(small_b) / Fraction(whole)
    )


@given(st.lists(amounts, max_size=20))
def test_a_total_does_not_depend_on_the_order(given_amounts: list[Decimal]) -> None:
    assert money.total(given_amounts) == money.total(reversed(given_amounts)) == sum(map(Fraction, given_amounts))


@given(above_zero | st.just(Decimal(0)), st.sampled_from(["0.00000001", "0.01", "1", "0.3", "25"]).map(exact))
def test_a_quantity_falls_to_the_nearest_step_below(quantity: Decimal, step: Decimal) -> None:
    floored = floor_to_step(quantity, step)
    assert 0 <= floored <= quantity < floored + step
    assert (Fraction(floored) / Fraction(step)).denominator == 1
    assert floor_to_step(floored, step) == floored
    assert is_exact(floored)


@given(above_zero, above_zero, st.sampled_from(["0.00000001", "0.01", "1", "0.3", "25"]).map(exact))
def test_what_is_affordable_never_costs_more_than_there_is(amount: Decimal, price: Decimal, step: Decimal) -> None:
    amount, price = exact(amount.scaleb(-3)), exact(price.scaleb(-3)) or step
    quantity = affordable(amount, price, step)
    assert Fraction(quantity) * Fraction(price) <= Fraction(amount) < Fraction(quantity + step) * Fraction(price)
    assert (Fraction(quantity) / Fraction(step)).denominator == 1


@given(above_zero | st.just(Decimal(0)), st.sampled_from(["0.00000001", "0.01", "1", "0.3", "25"]).map(exact))
def test_a_quantity_rises_to_the_nearest_step_above(quantity: Decimal, step: Decimal) -> None:
    ceiled = ceil_to_step(quantity, step)
    assert ceiled - step < quantity <= ceiled
    assert (Fraction(ceiled) / Fraction(step)).denominator == 1
    assert ceil_to_step(ceiled, step) == ceiled
    assert is_exact(ceiled)


@pytest.mark.parametrize(
    ("quantity", "step", "steps", "floored", "ceiled"),
    [("0", "1", 0, "0", "0"), ("0.9", "1", 0, "0", "1"), ("1", "1", 1, "1", "1"), ("1.1", "1", 1, "1", "2"),
     ("7", "0.3", 23, "6.9", "7.2"), ("0.75", "0.25", 3, "0.75", "0.75"),
     ("123456789012345678901234567890", "0.000000000001", 123456789012345678901234567890 * 10**12,
      "123456789012345678901234567890", "123456789012345678901234567890")],
)  # fmt: skip
def test_steps_are_counted_whole(quantity: str, step: str, steps: int, floored: str, ceiled: str) -> None:
    assert steps_in(exact(quantity), exact(step)) == steps
    assert isinstance(steps_in(exact(quantity), exact(step)), int)
    assert floor_to_step(exact(quantity), exact(step)) == exact(floored)
    assert ceil_to_step(exact(quantity), exact(step)) == exact(ceiled)


def test_small_sums_by_hand() -> None:
    five, two = Decimal(5), Decimal(2)
    assert [f(five, two) for f in (add, sub, mul, div)] == [7, 3, 10, exact("2.5")]
    assert (neg(five), magnitude(neg(five)), magnitude(five)) == (-5, 5, 5)
    assert (percent_of(five, two), bps_of(five, two)) == (exact("0.1"), exact("0.001"))
    assert prorate(five, two, Decimal(4)) == exact("2.5")
    assert money.total([]) == 0
    assert money.total([five, two, neg(Decimal(3))]) == 4
    assert affordable(Decimal(10), Decimal(3), exact("0.5")) == 3
    # Twelve decimals of a third would leave one step too few.
    assert affordable(Decimal(1), exact("0.000000000003"), ONE) == 333333333333


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [("0", True), ("5", True), ("-5", True), ("100", True), ("-100", True), ("0.5", True), ("-0.5", True),
     ("1E-8", True), ("-1E-8", True), ("1.5E-7", True), ("1E-12", True), ("0.123456789012", True),
     ("9" * 29, True), ("9" * 30, True), ("-" + "9" * 30, True), ("9" * 30 + ".5", True), ("9" * 29 + ".5", True),
     ("9" * 31, False), ("1" + "0" * 30, False), ("1" + "0" * 30 + ".5", False),
     ("1E-13", False), ("0.1234567890123", False), ("1.5E-12", False), ("0.50", False), ("-0.50", False),
     ("1.0", False), ("0.0", False), ("0E-12", False), ("-0", False), ("-0.0", False), ("0E+3", False),
     ("1E+2", False), ("1E+1", False), ("1.5E+3", False), ("1.0E-7", False), ("sNaN", False), ("-Infinity", False)],
)  # fmt: skip
def test_a_spelling_is_canonical_or_it_is_not(spelled: str, canonical: bool) -> None:
    assert is_exact(Decimal(spelled)) is canonical


@pytest.mark.parametrize(
    ("value", "message"),
    [("ten", "'ten' is not a decimal number"), ("1e9999999", "'1e9999999' is not a decimal number"),
     (Decimal("-Infinity"), "-Infinity is not a finite number"),
     ("1E30", "1E+30 is too large: amounts have at most 30 digits before the point")],
)  # fmt: skip
def test_a_refusal_names_what_it_was_given(value: str | Decimal, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        exact(value)
    assert str(refused.value) == message


BINARY: list[Callable[[Decimal, Decimal], Decimal]] = [
    add,
    sub,
    mul,
    div,
    percent_of,
    bps_of,
    floor_to_step,
    ceil_to_step,
]


@given(above_zero, above_zero, st.sampled_from(BINARY))
def test_a_hostile_decimal_context_changes_nothing(a: Decimal, b: Decimal, operation: Callable[..., Decimal]) -> None:
    a, b = div(a, Decimal(1_000)), div(b, Decimal(1_000))
    calm = [operation(a, b), prorate(a, b, a), neg(a), magnitude(neg(a)), exact(str(a)), money.total([a, b, a])]
    with localcontext(HOSTILE):
        hostile = [operation(a, b), prorate(a, b, a), neg(a), magnitude(neg(a)), exact(str(a)), money.total([a, b, a])]
        assert [value.as_tuple() for value in hostile] == [value.as_tuple() for value in calm]
