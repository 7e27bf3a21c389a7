"""Sessions with peers: how they begin, live, are made anew, and end."""
