"""The table says what was compiled, what limits the step, and the price."""

import json

import pytest

from clipjax.config import Config
from clipjax.planning.plan import Plan
from clipjax.planning.table import as_json, price, table

CONFIG = Config(batch_size=64, total_steps=3600)


def test_the_table_says_what_a_user_asks(found):
    text = table(Plan(CONFIG, "v5e:2x2", found))
    for said in (
        "ViT-B/32 on v5e:2x2: fits",
        "mesh data 2 x fsdp 2 x tensor 1",
        "moments         4.00 GB  exact",
        "75% of 16.00 GB",
        "limited by memory",
        "if nothing overlaps",
        "its own serial estimate",
        "all-gather          fsdp            bf16          6",
        "our count is 1.000 of the compiler's",
    ):
        assert said in text
    assert "price" not in text and "advice" not in text


def test_what_does_not_fit_is_said_first_and_advised(too_large):
    text = table(Plan(CONFIG, "v5e:2x2", too_large), 1.2)
    assert text.splitlines()[0].endswith("DOES NOT FIT")
    assert "125% of 16.00 GB" in text and "micro_batch_size=32" in text and "price" not in text


def test_the_price_is_that_of_the_whole_run(found):
    made = price(Plan(CONFIG, "v5e:2x2", found), 1.5)
    assert made == {
        "chips": 4,
        "hours_bound": 2.0,
        "price_bound": 2 * 4 * 1.5,
        "hours_serial": 3.5,
        "price_serial": 3.5 * 4 * 1.5,
    }
    assert "price of 230,400 samples on 4 chips" in table(Plan(CONFIG, "v5e:2x2", found), 1.5)


@pytest.mark.parametrize("given", [None, 1.5])
def test_the_object_is_json_with_a_price_where_one_is_given(found, given):
    made = json.loads(as_json(Plan(CONFIG, "v5e:2x2", found), given))
    assert ("price" in made) == (given is not None)
