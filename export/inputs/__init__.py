"""Inputs of the export scripts. Enters: the command line and a bundle that exists. Leaves: a checked request."""
