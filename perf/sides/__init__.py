"""The two sides of a run, each a process of its own.

A side is started as ``SIDE ROLE SHAPE TRANSPORT ADDRESS SIZE WARM_S RUN_S RATE``:

- ROLE is ``receiver`` (it listens, and counts) or ``sender``.
- SHAPE is ``stream`` (one way, as fast as it goes), ``request`` (one message out, its echo back) or
  ``open`` (one way, RATE messages a second at fixed times, whether or not the one before arrived).
  Those in C also know ``marked``: ``request``, with a system call where a message passes.
  Valkyrie's has more, one way as fast as it goes: RATE ``streams``, ``logs`` or ``applications``.

A receiver writes ``ready`` when a sender may start, a sender ``begin`` once it is connected and
before its first message. Both write one line of JSON when they have finished (the fields of
``result.Result``), and end when their standard input ends: what they have sent stays on its way
until then. Sides in Python import nothing of Valkyrie but what they measure; those in C share
``side.h``.
"""
