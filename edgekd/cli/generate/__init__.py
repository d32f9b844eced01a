"""What is written from the command line and the API into docs/."""
