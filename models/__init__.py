"""Where a forecast comes from. Nothing is here yet: the platform trades on its alphas alone."""
