"""One head per task, under any name a column may have."""

from torch import nn


class Heads(nn.ModuleDict):
    """A ModuleDict whose keys are task names.

    ModuleDict refuses names with a dot and those of its own attributes (``type``, ``values``);
    both are common names of columns. Here every name is kept apart by a prefix, its dots written
    as %2E.
    """

    def __getitem__(self, task: str) -> nn.Module:
        return super().__getitem__(_key(task))

    def __setitem__(self, task: str, head: nn.Module) -> None:
        super().__setitem__(_key(task), head)

    def __contains__(self, task: str) -> bool:
        return super().__contains__(_key(task))


def _key(task: str) -> str:
    return "task:" + task.replace("%", "%25").replace(".", "%2E")
