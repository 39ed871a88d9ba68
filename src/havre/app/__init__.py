"""Wiring: which parts can run, how they are configured, in which order they start and stop. No logic of its own.

config      what can be set, from the command line and from a file
parts       PARTS, the list of everything that `havre run` can start; node and platform put theirs together
run         start the parts, wait for a signal, stop them
supervisor  `havre up`: a process per promise (processes), watched, started again, succeeded by a child
background  an instance that nobody watches: start it, know it, stop it
doctor      what this machine offers and what degrades
"""
