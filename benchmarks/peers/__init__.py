"""Other people's reconstructions of the same masked k-space, one file a peer, each tuned in its own favour."""
