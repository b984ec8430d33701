"""Other engines on our decisions. `python -m tests.peers ENGINE` runs in `.venv-peers`; nothing else imports engines.

They are given orders, not strategies: what to do and after which bar is already decided, so that only fills,
commission and equity are compared.
"""
