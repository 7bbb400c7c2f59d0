"""The desk toolchain: from training volumes and PyTorch models to the bundle that a device runs. Needs the extra ``export``."""
