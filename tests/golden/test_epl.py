"""EPL's heads against its released code, before and after the prototypes enter the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from longtail.classes import Classes
from longtail.losses.margin_head import Epl, MarginHead
from longtail.methods import method_class
from longtail.methods.base import Batch, Clock

_OVERFLOW = math.log(torch.finfo(torch.float32).max)  # the released code's log(1 + exp(x)) is infinite beyond it


def _head(vector: dict[str, Tensor], variant: str) -> MarginHead:
    epl = Epl(k=vector["adaptive_margin_k"].item(), start_epoch=int(vector["start_epoch"]))
    identities, dim = vector["class_weights"].shape
    head = MarginHead(identities, dim, variant, epl=epl, margin=vector["margin"].item(), scale=vector["scale"].item())
    if variant == "uniface":
        assert head.bias.item() == pytest.approx(vector["bias"].item(), rel=1e-6)
    state = {"weight": vector["class_weights"], "prototypes": vector["prototypes_before"], "bias": vector.get("bias")}
    head.load_state_dict({key: value for key, value in state.items() if value is not None})
    return head


@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize("variant", ["cosface", "arcface", "uniface"])
def test_head_agrees_with_the_released_code(golden, assert_close_relative, variant, epoch):
    vector = golden(f"epl_{variant}_epoch{epoch}")
    head = _head(vector, variant)
    x = vector["embeddings"].requires_grad_()
    rows = head.rows(x, vector["labels"], int(vector["epoch_zero_based"]))
    assert_close_relative(head.prototypes, vector["prototypes_after"], 1e-4)

    # Where a row overflows in the released code, its loss is infinite and its gradient zero. Ours is neither, so the
    # other rows are compared.
    released = rows if variant == "uniface" else rows[rows <= _OVERFLOW]
    assert torch.isinf(vector["loss"]) == (len(released) < len(rows))
    if len(released) == len(rows):
        assert_close_relative(rows.mean(), vector["loss"], 1e-4)
    (released.sum() / len(rows)).backward()
    assert_close_relative(x.grad, vector["grad_embeddings"], 1e-4)
    assert_close_relative(head.weight.grad, vector["grad_class_weights"], 1e-4)
    if variant == "uniface":
        assert_close_relative(head.bias.grad, vector["grad_bias"], 1e-4)


def test_the_loss_that_overflows_as_released_is_finite_and_exact(golden, assert_close_relative):
    vector = golden("epl_cosface_epoch0")
    loss = _head(vector, "cosface")(vector["embeddings"], vector["labels"], 0)
    x, w = (torch.nn.functional.normalize(vector[key].double()) for key in ("embeddings", "class_weights"))
    cosine = x @ w.T
    own = cosine.gather(1, vector["labels"][:, None])
    others = (64 * cosine).exp().sum(1, keepdim=True) - (64 * own).exp()
    exact = (1 + others * (-64 * (own - vector["margin"].double())).exp()).log().mean()
    assert_close_relative(loss, exact, 1e-6)


class _GivenEmbeddings(torch.nn.Flatten):
    dim = 12


@pytest.mark.parametrize("epoch", [0, 5])
@pytest.mark.parametrize("variant", ["cosface", "arcface", "uniface"])
def test_methods_with_their_defaults_give_the_released_loss(golden, assert_close_relative, variant, epoch):
    """Their margin, scale, k, gate, start epoch and gradient are the released ones; the epoch is the clock's."""
    vector = golden(f"epl_{variant}_epoch{epoch}")
    cls = method_class(f"{variant}_epl")
    identities = len(vector["class_weights"])
    classes = Classes(tuple(map(str, range(identities))), (1,) * identities)
    method = cls(_GivenEmbeddings(), classes, cls.Options())
    method.head.load_state_dict(_head(vector, variant).state_dict())
    x = vector["embeddings"].requires_grad_()
    clock = Clock("train", int(vector["epoch_zero_based"]), 28, 0, 1, torch.Generator())
    (loss,) = method.losses({"main": Batch((x[:, None],), vector["labels"], vector["labels"])}, clock).values()
    if vector["loss"].isfinite():
        assert_close_relative(loss, vector["loss"], 1e-4)
        loss.backward()
        assert_close_relative(x.grad, vector["grad_embeddings"], 1e-4)
    assert_close_relative(method.head.prototypes, vector["prototypes_after"], 1e-4)
