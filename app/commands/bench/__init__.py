"""`crossvit bench`: how fast a running server, or a bundle's own engine, is."""
