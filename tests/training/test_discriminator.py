"""The patch discriminator: one sum of losses whose parts reach their own network alone, as two optimizers would."""

import torch
import torch.nn.functional as F
from torch import nn

from training.discriminator import PatchDiscriminator, adversarial_loss


def test_each_network_has_the_gradient_of_its_own_loss():
    torch.manual_seed(0)
    judge, last = PatchDiscriminator(width=8), nn.Parameter(torch.randn(3, 3, 3, 3) / 5)
    hidden, images = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32)
    decoded = F.conv2d(hidden, last, padding=1)
    rebuilding = (decoded - images).abs().mean()
    loss, parts = adversarial_loss(judge, decoded, images, rebuilding, last, 0.5)
    ours = torch.autograd.grad(loss, [last, *judge.parameters()], retain_graph=True)

    grey = decoded.mean(dim=1, keepdim=True)
    fooled = -judge(grey).mean()
    (own,), (against,) = (torch.autograd.grad(each, last, retain_graph=True) for each in (rebuilding, fooled))
    assert torch.allclose(ours[0], 0.5 * own.norm() / (against.norm() + 1e-4) * against, atol=1e-6)
    real, rebuilt = judge(images.mean(dim=1, keepdim=True)), judge(grey.detach())
    hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + rebuilt).mean())
    for a, b in zip(ours[1:], torch.autograd.grad(hinge, [*judge.parameters()]), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(parts["hinge"], hinge) and torch.allclose(parts["fooled"], fooled)


def test_it_learns_grain_from_smoothness():
    torch.manual_seed(0)
    judge, optimizer = (judge := PatchDiscriminator(width=8)), torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(30):
        images = torch.randn(4, 3, 64, 64) * 0.3
        smooth = F.avg_pool2d(images, 5, 1, 2).requires_grad_()
        loss, parts = adversarial_loss(judge, smooth * 1.0, images, smooth.mean(), smooth, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["hinge"] < 0.3 and judge(images[:, :1]).mean() > 0 > judge(smooth[:, :1]).mean()
