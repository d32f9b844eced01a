"""What the commands are built from: option groups, verbs, completion, printing."""
