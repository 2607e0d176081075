"""This service beside what one would otherwise run on a CPU: engines alone, and services over HTTP."""
