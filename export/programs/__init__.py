"""Imported programs on their way to a device: what surrounds them, their forms, and the bundle that holds them."""
