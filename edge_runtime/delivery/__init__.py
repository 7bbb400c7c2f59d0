"""The last room of the street: an image with its evidence leaves the scanner, now or when the network is back.

`dicom` writes images as DICOM files that say what they are, how they were made and how far they can be trusted;
`plane` places them, `pixels` scales them, `fit` makes values from outside fit. `handover` takes what was written into the `outbox`,
which brings it to its `destinations` as the `configuration` says.
"""
