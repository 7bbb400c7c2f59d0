"""Magnetic resonance imaging: 2D Cartesian scans."""
