"""polytask: should several tasks share one model, which way of sharing wins, and how to ship it.

    import polytask
    report = polytask.compare("my.csv", targets=["price", "rooms", "sold"])
    report.print()
    report.to_html("report.html")

Importing this package is light; each name below brings in what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polytask.version import __version__

_WHERE = {
    "Balanced": "training.alone",
    "InputError": "errors",
    "Plan": "comparing.compare",
    "Report": "comparing.report",
    "Suite": "data.suite",
    "Training": "training.loop",
    "compare": "comparing.compare",
    "flights": "data.packaged",
    "load": "training.saved",
    "load_system": "catalogue",
}

if TYPE_CHECKING:
    from polytask.catalogue import load_system
    from polytask.comparing.compare import Plan, compare
    from polytask.comparing.report import Report
    from polytask.data.packaged import flights
    from polytask.data.suite import Suite
    from polytask.errors import InputError
    from polytask.training.alone import Balanced
    from polytask.training.loop import Training
    from polytask.training.saved import load

__all__ = [
    "Balanced",
    "InputError",
    "Plan",
    "Report",
    "Suite",
    "Training",
    "__version__",
    "compare",
    "flights",
    "load",
    "load_system",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'polytask' has no attribute {name!r}")
    value = getattr(import_module(f"polytask.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
