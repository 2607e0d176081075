"""`crossvit calibrate`: makes the scores of a bundle probabilities, by what it fits to labelled images."""
