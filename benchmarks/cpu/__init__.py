"""This service beside the usual alternatives on a CPU: engines alone, and services over HTTP."""
