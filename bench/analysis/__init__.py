"""From responses to figures."""
