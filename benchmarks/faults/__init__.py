"""What must survive: killed processes, full disks, damaged and hostile files, bad input; each test done for real.

    python -m benchmarks.faults [--only=kill,signal] [--quick]

prints a table of the tests, when each passes and what was found, and writes ``results/faults.json``.
"""
