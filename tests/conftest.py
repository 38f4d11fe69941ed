"""How hard the property tests try: `HYPOTHESIS_PROFILE=long` is for a night, the default for every change."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("default", max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
