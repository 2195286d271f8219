"""A balancer and the F-MTL step in a plain PyTorch loop, on a module of your own."""

import torch
from torch import nn
from torch.nn import functional as F

from polytask.training import Balanced


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.heads = nn.ModuleDict({"price": nn.Linear(16, 1), "sold": nn.Linear(16, 1)})


def losses(model: Net, x: torch.Tensor, price: torch.Tensor, sold: torch.Tensor) -> dict:
    z = model.trunk(x)
    return {
        "price": F.mse_loss(model.heads["price"](z).squeeze(1), price),
        "sold": F.binary_cross_entropy_with_logits(model.heads["sold"](z).squeeze(1), sold),
    }


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(256, 8)
    return x, x[:, 0] - x[:, 1], (x[:, 0] + x[:, 2] > 0).float()


def main(steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    batch, model = data(), Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    # Your own loop; the balancer stands where loss.backward() stood.
    balanced = Balanced("upgrad", shared=model.trunk, private=model.heads)
    totals = []
    for _ in range(steps):
        info = balanced.backward(losses(model, *batch))
        optimizer.step()
        optimizer.zero_grad()
        totals.append(sum(info.losses.values()))

    # F-MTL looks at the losses again at perturbed weights, so it is handed a function.
    flat = Balanced("cagrad(c=0.4)", shared=model.trunk, private=model.heads, step="flat(rho=0.5)")
    for _ in range(steps):
        info = flat.backward(lambda: losses(model, *batch))
        optimizer.step()
        optimizer.zero_grad()
        totals.append(sum(info.losses.values()))
    return totals


if __name__ == "__main__":
    totals = main()
    print(f"sum of losses: {totals[0]:.3f} -> {totals[-1]:.3f}")
