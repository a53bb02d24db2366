"""Policy: which release may be served, as pure functions of rules and values.

A *rule* (``rules.py``) says of the releases it matches what to do; today that is ``refuse``. What it matches is spelled as a purl with
a version range (``purls.py``). A *verdict* is the outcome for one release: any rule that matches refuses it, and the first such rule,
in the order they are written, gives the reason. What cannot be decided, because a version is unknown or outside its kind's grammar, is
decided against the release.

    rules = [parse_rule(table) for table in settings["rules"]]
    verdicts(rules, registry, listing)         # the versions on a page that are not allowed, for ``Registry.restrict``
    judge(rules, registry, "evil", "1.2")      # one release, for a file

The verdict is the same for everyone; who may ask at all is another matter, settled before.
"""
