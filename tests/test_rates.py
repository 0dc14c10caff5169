"""Rates for sets that allow few steps."""

from __future__ import annotations

import pytest

from longtail import api
from longtail.methods import METHODS
from longtail.rates import LONG, RATES, SHORT, for_few_steps


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_train_alike_where_steps_are_few_and_as_their_authors_where_not(method):
    few = for_few_steps(method, 1485, {})
    if method == "weight_balancing":
        assert few == {}
    else:
        assert few["train"].items() >= RATES.items()
        config = api.make_config(method, None, few)
        assert config.train.epochs * -(-1485 // config.train.batch_size) >= SHORT
    assert for_few_steps(method, 10_000_000, {}) == {}


def test_what_is_told_counts_and_comes_first():
    assert for_few_steps("glmc", 64 * 100, {"train": {"epochs": LONG // 100}}) == {}
    few = for_few_steps("glmc", 64 * 100, {"train": {"epochs": LONG // 100 - 1, "lr": 0.02}})
    assert few["train"]["epochs"] == LONG // 100 - 1
    told = {"data": {"source": "fashion-mnist-lt"}, "train": {"lr": 0.02, "epochs": 3}}
    train = api.for_own_data("glmc", told)["train"]
    assert train == RATES | {"lr": 0.02, "epochs": 3}
    assert for_few_steps("bcl", 128, {})["train"]["epochs"] == SHORT / 2
    assert for_few_steps("bcl", 128, {"train": {"batch_size": 16}})["train"]["epochs"] == SHORT / 8


def test_benchmarks_and_runs_that_go_on_keep_their_rates():
    carved = {"data": {"source": "fashion-mnist-lt", "imbalance": 10.0}}
    assert api.for_own_data("glmc", carved) == carved
    begun = {"data": {"source": "fashion-mnist-lt"}, "start_from": "runs/one"}
    assert api.for_own_data("glmc", begun) == begun
    nowhere = {"data": {"source": "no/such/folder"}}
    assert api.for_own_data("glmc", nowhere) == nowhere
