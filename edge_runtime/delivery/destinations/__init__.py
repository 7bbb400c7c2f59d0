"""The ways out of the scanner: `dimse` (C-STORE), `web` (STOW-RS) and `folder`, behind the one protocol of `courier`.

`association` makes connections to application entities and `diagnosis` says in plain words why one failed; `commitment` asks
whether what was sent is kept, and `callback` listens for the answer; `check` is what an operator runs.
"""
