"""Classifiers made or re-trained after the features, and BALMS's meta sampler, against the authors' code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from longtail.losses.decoupling import ncm_scores, ncm_transform, tau_normalised
from longtail.losses.meta_sampler import draw_images, initial_rate_logits, noise_of_draw, stepped
from longtail.losses.softmax import logit_adjusted_cross_entropy


def test_tau_normalisation(golden, assert_close_relative) -> None:
    v = golden("tau_norm")
    assert_close_relative(tau_normalised(v["classifier_weight"], 0.7), v["weight_tau_07"])
    for i, tau in enumerate(v["taus"].tolist()):
        rows = tau_normalised(v["classifier_weight"], tau)
        assert_close_relative(rows.norm(dim=1), v["row_norms"][i])
        for bias, name in ((None, "without_bias"), (v["classifier_bias"], "with_unscaled_bias")):
            z = F.linear(v["features"], rows, bias)
            assert_close_relative(z, v[f"logits_{name}"][i])
            assert torch.equal(z.argmax(1), v[f"predictions_{name}"][i])


@pytest.mark.parametrize("transform", ["raw", "unit", "centred_unit"])
def test_nearest_class_means(transform, golden, assert_close_relative) -> None:
    v = golden("ncm")
    mean = v["train_features"].mean(0)
    assert_close_relative(mean, v["train_mean"])
    transformed = ncm_transform(v["train_features"], mean, transform)
    centres = torch.stack([transformed[v["train_labels"] == c].mean(0) for c in range(5)])
    assert_close_relative(centres, v[f"centroids_{transform}"])
    for score in ("distance", "product"):
        z = ncm_scores(ncm_transform(v["test_features"], mean, transform), centres, score)
        assert_close_relative(z, v[f"scores_{transform}_{score}"])
        assert torch.equal(z.argmax(1), v[f"predictions_{transform}_{score}"])


def test_meta_sampler(golden, assert_close_relative) -> None:
    v = golden("meta_sampler")
    for power, name in ((0.0, "0"), (0.1, "01"), (1.0, "1")):
        start = initial_rate_logits(v["class_counts"], power)
        assert (start - v[f"initial_rate_logits_power{name}"]).abs().max() < 1e-5

    rates = v["rate_logits"].clone().requires_grad_()
    drawn, ones = draw_images(rates, v["train_labels"], v["gumbel_noise"])
    assert torch.equal(drawn, v["drawn_indices"])
    assert torch.equal(ones.detach(), torch.ones(8))
    classifier = {name: v[f"classifier_{name}"].clone().requires_grad_() for name in ("weight", "bias")}
    z = F.linear(v["train_features"][drawn], **classifier)
    labels = v["train_labels"][drawn]
    losses = F.cross_entropy(z + (v["class_counts"] / v["class_counts"].sum()).log(), labels, reduction="none")
    inner = (losses * ones).mean()
    assert_close_relative(inner, v["inner_loss"])
    assert_close_relative(inner, logit_adjusted_cross_entropy(z, labels, v["class_counts"]))
    after = stepped(classifier, inner, lr=v["inner_learning_rate"].item(), weight_decay=v["inner_weight_decay"].item())
    for name, value in after.items():
        assert_close_relative(value, v[f"inner_classifier_{name}_after"])
    meta = F.cross_entropy(F.linear(v["meta_features"], **after), v["meta_labels"])
    assert_close_relative(meta, v["meta_loss"])
    (rates.grad,) = torch.autograd.grad(meta, rates)
    assert_close_relative(rates.grad, v["grad_rate_logits"])
    torch.optim.Adam([rates], lr=v["adam_learning_rate"].item()).step()
    assert_close_relative(rates, v["rate_logits_after"])


def test_step_with_momentum_is_that_of_the_optimiser() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 2, dtype=torch.float64))
    optimiser = torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
    x = torch.randn(5, 2, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (x @ weight.T).square().mean()

    loss().backward()
    optimiser.step()
    buffers = {"weight": optimiser.state[weight]["momentum_buffer"].clone()}
    ours = stepped({"weight": weight}, loss(), lr=0.1, weight_decay=0.01, momentum=0.9, buffers=buffers)["weight"]
    optimiser.zero_grad()
    loss().backward()
    optimiser.step()
    torch.testing.assert_close(ours, weight)


def test_noise_of_a_draw_is_that_of_the_images_it_would_have_drawn() -> None:
    """Mean and spread of the softmax's share of the drawn image, by which image that is, against drawing by noise."""
    torch.manual_seed(0)
    rates, labels, draws = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([0, 0, 1, 2]), 40000
    logits = F.logsigmoid(rates)[labels]

    def gumbel() -> torch.Tensor:
        return -(-torch.rand(draws, 4).log()).log()

    noise = gumbel()
    expected = (logits + noise).argmax(1)
    after = noise_of_draw(logits, expected, gumbel())
    drawn, _ = draw_images(rates, labels, after)
    assert torch.equal(drawn, expected)
    for image in range(4):
        here = expected == image
        for statistic in (torch.mean, torch.std):
            ours, theirs = (statistic(x[here], dim=0) for x in (after, noise))
            torch.testing.assert_close(ours, theirs, atol=0.06, rtol=0.06)
            shares = [statistic((logits + x)[here].softmax(1)[:, image]) for x in (after, noise)]
            torch.testing.assert_close(*shares, atol=0.02, rtol=0.02)
