"""What flows: frames, events, units, calendar, universe."""
