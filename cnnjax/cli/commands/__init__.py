"""The subcommands of ``cnnjax``, one module each.

A module has a docstring, which is the subcommand's help (what it does, its form, examples), ``define(arguments,
argv)``, which defines its flags, and ``run(arguments)``, which does the work and may return an exit code. What is slow
to import is imported in ``run``, so that help is fast.
"""
