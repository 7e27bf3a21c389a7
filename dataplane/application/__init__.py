"""The application's API, and its end of the rings."""
