"""Measurements that a person starts by `make bench-…`; nothing of the bridge imports them."""
