"""`edgekd search`: the best student that a budget allows."""
