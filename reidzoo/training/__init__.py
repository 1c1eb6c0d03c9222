"""How weights change: the methods, their settings, and the loop that runs them. Start at `reidzoo.pretrain`."""

from reidzoo._lazy import lazy

__all__: list[str] = []

__getattr__, __dir__ = lazy(__name__, {}, ("recipes",))
