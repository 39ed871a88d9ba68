"""Kubernetes' conformance suite against a machine that is up: its images made here, its tests run, the outcome counted.

    tools/conformance/programs.sh DIRECTORY               e2e.test and the programs of its images, from their Go modules
    python -m tools.conformance.images DIRECTORY          the images, pushed to the registry of the machine
    python -m tools.conformance.run DIRECTORY [REGEX]     the tests, each in a process of its own

docs/reference/conformance.md tells the whole story.
"""
