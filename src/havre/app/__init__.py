"""Wiring: which parts can run, how they are configured, in which order they start and stop. No logic of its own.

config    what can be set, from the command line and from a file
parts     PARTS, the list of everything that `havre run` can start
run       start the parts, wait for a signal, stop them
"""
