"""A balancer under transformers' Trainer: one method is replaced."""

import tempfile

import torch
from plain_loop import Net, data, losses
from transformers import Trainer, TrainingArguments

from polytask.training import Balanced


class BalancedTrainer(Trainer):
    def training_step(self, model, inputs, num_items_in_batch=None):
        if not hasattr(self, "balanced"):
            self.balanced = Balanced("upgrad", shared=model.trunk, private=model.heads)
        model.train()
        info = self.balanced.backward(losses(model, **self._prepare_inputs(inputs)))
        return torch.tensor(sum(info.losses.values()))


def main(epochs: int = 5) -> list[float]:
    torch.manual_seed(0)
    rows = [
        dict(zip(("x", "price", "sold"), row, strict=True)) for row in zip(*data(), strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=32,
            gradient_accumulation_steps=1,  # balancing parts on their own is another algorithm
            learning_rate=0.01,
            logging_steps=1,
            remove_unused_columns=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = BalancedTrainer(Net(), arguments, train_dataset=rows)
        trainer.train()
    return [record["loss"] for record in trainer.state.log_history if "loss" in record]


if __name__ == "__main__":
    totals = main()
    print(f"sum of losses: {totals[0]:.3f} -> {totals[-1]:.3f}")
