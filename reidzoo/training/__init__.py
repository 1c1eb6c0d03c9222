"""How weights change: the methods, their settings, and the loop that runs them. Start at `reidzoo.pretrain`."""
