"""`crossvit evaluate`: how accurate a bundle, or a running server, is on labelled images."""
