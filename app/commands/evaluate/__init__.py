"""`crossvit evaluate`: measures the accuracy of a bundle, or of a running server, on labelled images."""
