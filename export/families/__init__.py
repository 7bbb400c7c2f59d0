"""Network families: what is trained, and what of it becomes a graph."""
