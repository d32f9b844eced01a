"""The search for a student against distilling every candidate."""
