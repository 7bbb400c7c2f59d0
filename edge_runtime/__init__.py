"""Edge inference runtime for portable scanners: raw readouts stream in, trustworthy images come out."""
