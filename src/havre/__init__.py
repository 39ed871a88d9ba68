"""Havre: one program that turns a bare Linux machine into a whole cloud-native platform.

The floors, from the ground up (each stands only on those below; `make check` proves it):

kit         small tools without a domain
lang, wire  languages we interpret; protocols we speak
api         the vocabulary: kinds, schemas, errors
machinery   how a controller talks to the API
control     the truth: store, API server, workload controllers
app         wiring: configuration, parts, start and stop
cli         the `havre` command
"""

__version__ = "0.1.0.dev0"
