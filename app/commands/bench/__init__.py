"""`crossvit bench`: measures the speed of a running server, or of a bundle's own engine."""
