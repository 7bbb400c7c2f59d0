"""The main job end to end, over a real socket, on a scan that ships with the package."""
