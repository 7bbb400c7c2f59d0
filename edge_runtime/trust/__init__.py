"""How far an image can be trusted: evidence measured on the scan itself."""
