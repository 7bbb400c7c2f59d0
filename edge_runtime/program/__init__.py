"""Split programs, as values: the stages of a model that was trained elsewhere (`stages`), and how they are written down
(`document`). What runs them is `edge_runtime.modalities.mri.interpret`."""
