"""capcheck."""
