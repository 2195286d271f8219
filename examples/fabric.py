"""A torchjd aggregator, balanced by polytask, under Lightning Fabric."""

import torch
from lightning_fabric import Fabric
from plain_loop import Net, data, losses
from torch.utils.data import DataLoader, TensorDataset
from torchjd.aggregation import UPGrad

from polytask.training import Balanced


def main(epochs: int = 5) -> list[float]:
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    net = Net()
    loader = fabric.setup_dataloaders(DataLoader(TensorDataset(*data()), batch_size=32))
    optimizer = fabric.setup_optimizers(torch.optim.Adam(net.parameters(), lr=0.01))

    balanced = Balanced(UPGrad(), shared=net.trunk, private=net.heads)  # the bare parts of the net
    totals = []
    for _ in range(epochs):
        for batch in loader:
            info = balanced.backward(losses(net, *batch))  # instead of fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            totals.append(sum(info.losses.values()))
    return totals


if __name__ == "__main__":
    totals = main()
    print(f"sum of losses: {totals[0]:.3f} -> {totals[-1]:.3f}")
