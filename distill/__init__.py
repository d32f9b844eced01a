"""Teachers, students, and the training of one from the other without data."""
