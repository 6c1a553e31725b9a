"""Losses and optimizers against timm's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("engines.timm_reference", reason="needs timm")

from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy
from timm.optim import Lamb as TimmLamb
from timm.optim import param_groups_layer_decay
from timm.utils.agc import adaptive_clip_grad

from engines.losses import random_rows
from engines.timm_reference import timm_model
from seresnext.config import LossConfig, OptimConfig
from seresnext.engines.torch.lamb import Lamb
from seresnext.engines.torch.loss import RowLoss
from seresnext.engines.torch.optimizer import clip_units
from seresnext.engines.trained import trained_groups
from seresnext.model.architecture import architecture


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.6])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(threshold: float | None, smoothing: float) -> None:
    """On targets that its mixup makes of a batch: row i is mixed with row n - 1 - i."""
    rows, share = random_rows(), 0.7
    logits, labels = torch.tensor(rows.logits), torch.tensor(rows.labels)
    target = mixup_target(labels.long(), 4, share, smoothing)
    theirs = BinaryCrossEntropy(target_threshold=threshold)(logits, target)
    loss = LossConfig(kind="binary", threshold=threshold, label_smoothing=smoothing)
    mix = torch.full((len(labels),), share)
    ours = RowLoss(loss, 4, torch.device("cpu"))(logits, (labels, labels.flip(0)), mix)
    torch.testing.assert_close(ours.mean(), theirs)


def test_lamb() -> None:
    """Five updates: a kernel that decays, a bias that does not, weights of zeros; and perturbed."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(4, 3, 3, 3, generator=generator), torch.zeros(5, 2), torch.randn(7)]
    for eps, equal in ((1e-6, True), (1e-2, False)):
        ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
        groups = [
            [{"params": p[:2], "weight_decay": 0.02}, {"params": p[2:], "weight_decay": 0.0}]
            for p in (ours, theirs)
        ]
        mine = Lamb(groups[0], lr=0.01, betas=(0.9, 0.999), eps=eps, fused=True)
        for p in ours:
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            mine.state[p] = {"step": torch.zeros(()), **moments}
        reference = TimmLamb(groups[1], lr=0.01, eps=1e-6, max_grad_norm=None)
        for _ in range(5):
            for p, q in zip(ours, theirs, strict=True):
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.clone()
            mine.step()
            reference.step()
        close = all(torch.allclose(p, q, rtol=1e-5) for p, q in zip(ours, theirs, strict=True))
        assert close == equal


@pytest.mark.parametrize("clip", [0.01, 0.02])
def test_adaptive_gradient_clipping(clip: float) -> None:
    """A kernel, a matrix and a vector, with zeros and large gradients; and perturbed."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((6, 4, 3, 3), (5, 7), (9,)):
        weight = torch.randn(shape, generator=generator)
        weight[0] = 0
        gradient = torch.randn(shape, generator=generator) * torch.logspace(-3, 1, shape[0]).view(
            -1, *[1] * (len(shape) - 1)
        )
        ours, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        clip_units(ours, torch.tensor(clip))
        adaptive_clip_grad(theirs, 0.01)
        assert not torch.equal(ours.grad, gradient)
        assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6) == (clip == 0.01)


@pytest.mark.parametrize("name", ["seresnext26_32x4d", "seresnext50d_32x4d"])
def test_rates_of_layers(name: str) -> None:
    """timm's layer decay counts blocks as we do."""
    arch = architecture(name, num_classes=5)
    optim = OptimConfig(layer_decay=0.7, weight_decay=0.05)
    ours = {
        parameter: (group.rate, group.weight_decay)
        for group in trained_groups(arch, optim)
        for parameter in group.names
    }
    model = timm_model(arch)
    names = {id(p): n for n, p in model.named_parameters()}
    theirs = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(model, 0.05, layer_decay=0.7)
        for p in group["params"]
    }
    assert ours.keys() == theirs.keys()
    for parameter, expected in theirs.items():
        assert ours[parameter] == pytest.approx(expected), parameter
