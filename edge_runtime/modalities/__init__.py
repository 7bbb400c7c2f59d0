"""From readouts to images, one package a modality."""
