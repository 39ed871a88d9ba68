"""Profiles of hypothesis: `ci` is quick and always the same, `nightly` looks further (HYPOTHESIS_PROFILE=nightly)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]  # a busy machine is no reason to fail
settings.register_profile("ci", max_examples=50, derandomize=True, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.register_profile("nightly", max_examples=2000, deadline=None, suppress_health_check=_SLOW_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
