"""How a file comes in, once: initialize, retrieve, assemble, scan, parse, decide, store.

Each stage takes the previous stage's result type, so that a wrong order is a type error:

    Initialized -> Retrieved -> Assembled -> Scanned -> Parsed -> Decided -> Stored

``synchronize`` (in ``synchronize.py``) walks them inside a flight, which readers follow while it runs. What may leave when is decided in
``release.py``: under *strict* release nothing before the last check, under *tail-hold* release all but the tail, so that a
transfer that fails its digest leaves every client with bytes it cannot use.
"""
