"""A site's guard: the process that owns its data and its ledger, and lets out what is paid for.

The Flower app that came from outside relays models to it over a Unix socket; nothing of that app
runs here. See docs/guard.md.
"""
